"""What the benchmarks compare, each in a process of its own.

    python -m benchmarks.contenders JOB

makes the contender of a job (a `Job` as JSON), writes a line of JSON with versions, then answers
each line of the standard input, a number of batches or steps, with the seconds that they took and the
most memory that they ever needed. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Runner = Callable[[int], None]  # computes so many batches

CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class Job:
    """What a contender is asked to do.

    Attributes:
        task: "inference" or "training": see `CONTENDERS`.
        name: of the contender in its task.
        batch: images in a batch, or in a step.
        size: height and width of the images.
        threads: of the processor.
    """

    task: str
    name: str
    batch: int
    size: int = 224
    threads: int = 2


TORCH_EAGER = "official PyTorch, eager"
TORCH_COMPILED = "official PyTorch, torch.compile"


def _images(job: Job) -> np.ndarray:
    shape = (job.batch, job.size, job.size, 3)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _labels(job: Job) -> np.ndarray:
    return np.arange(job.batch) % CLASSES


# --- this library -------------------------------------------------------------------------------


def _cvt13(job: Job, dtype: str = "float32", deployed: bool = False, recompute: bool = False):
    import keras_cvt

    model = keras_cvt.CvT13(
        weights=None,
        input_shape=(job.size, job.size, 3),
        classes=CLASSES,
        dtype=dtype,
        recompute=recompute,
    )
    return keras_cvt.deploy(model) if deployed else model


def _graph(model, job: Job) -> Runner:
    """A model as a served SavedModel computes it: a graph of operations, without Keras around it."""
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False))
    images = tf.constant(_images(job))

    def run(batches: int) -> None:
        for _ in range(batches):
            function(images).numpy()

    return run


def _predict(model, job: Job) -> Runner:
    images = _images(job)

    def run(batches: int) -> None:
        many = np.broadcast_to(images, (batches, *images.shape)).reshape(-1, *images.shape[1:])
        model.predict(many, batch_size=job.batch, verbose=0)

    return run


def _litert(job: Job, quantize: str = "none") -> Runner:
    from PIL import Image

    from keras_cvt import export
    from keras_cvt.export import litert

    with tempfile.TemporaryDirectory() as folder:
        # What is calibrated decides on the answers, not on the speed.
        options = {}
        if quantize == "int8":
            pixels = np.random.default_rng(0).integers(256, size=(256, 256, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder, "calibration.png"))
            options = {"calibration": folder}
        path = Path(folder, "cvt13.tflite")
        export.to_litert(
            _cvt13(job),
            path,
            quantize=quantize,
            batch_size=job.batch,
            tolerance=float("inf"),
            **options,
        )
        answer = litert.load(path, job.threads)
        images = _images(job)
        answer(images)  # reads the file, which then goes
    return _repeated(lambda: answer(images))


def _openvino(job: Job, precision: str) -> Runner:
    import openvino

    from keras_cvt import export

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cvt13.xml")
        export.to_openvino(_cvt13(job), path)
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": job.threads}
        compiled = openvino.compile_model(path, "CPU", options)
    images = _images(job)
    return _repeated(lambda: compiled({"images": images}))


def _repeated(answer: Callable) -> Runner:
    def run(batches: int) -> None:
        for _ in range(batches):
            answer()

    return run


def _fit(job: Job, dtype: str = "float32", recompute: bool = False) -> Runner:
    """`fit` with AdamW, as users train, from a batch in the host's memory."""
    import keras

    model = _cvt13(job, dtype, recompute=recompute)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.05)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    batches = _same_batch(_images(job), _labels(job))

    def run(steps: int) -> None:
        model.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0)

    return run


def _same_batch(images: np.ndarray, labels: np.ndarray) -> Any:
    """A data set that is this batch again and again."""
    import keras

    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        # With autotuning, the end of a data set sometimes waits for a thread that sleeps for as long
        # as the data set was in use: twice the time, of no step.
        options = tf.data.Options()
        options.autotune.enabled = False
        return tf.data.Dataset.from_tensors((images, labels)).repeat().with_options(options)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 10**9

        def __getitem__(self, number):
            return images, labels

    return Batches()


# --- its peers ----------------------------------------------------------------------------------


def _application(name: str, job: Job) -> Runner:
    import keras

    shape = (job.size, job.size, 3)
    return _graph(getattr(keras.applications, name)(weights=None, input_shape=shape), job)


def _official_model(job: Job):
    """Hugging Face's CvT-13 with QuickGELU, which equals the official code bit for bit."""
    import torch
    import transformers

    class QuickGELU(torch.nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.702 * x)

    model = transformers.CvtForImageClassification(transformers.CvtConfig(num_labels=CLASSES))
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "GELUActivation" or isinstance(child, torch.nn.GELU):
                setattr(module, name, QuickGELU())
    return model


def _official_images(job: Job):
    import torch

    return torch.tensor(_images(job)).permute(0, 3, 1, 2).contiguous()


def _official(job: Job, compiled: bool = False) -> Runner:
    import torch

    model = _official_model(job).eval()
    if compiled:
        model = torch.compile(model)
    images = _official_images(job)
    return _in_torch(lambda images: model(images).logits, images)


def _in_torch(function: Callable, images) -> Runner:
    import torch

    def run(batches: int) -> None:
        with torch.inference_mode():
            for _ in range(batches):
                answers = function(images)
            answers.float().cpu().numpy()  # waits for all of them

    return run


def _official_step(job: Job, autocast: bool = False) -> Runner:
    """A training step with AdamW, from a batch in the host's memory."""
    import torch

    model = _official_model(job).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
    images, labels = _official_images(job), torch.tensor(_labels(job))

    def run(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                logits = model(images).logits
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return run


BFLOAT16 = "mixed_bfloat16"

# By task and name: whose packages are needed, and what makes the contender.
CONTENDERS: dict[str, dict[str, tuple[str, Callable[[Job], Runner]]]] = {
    "inference": {
        TORCH_EAGER: ("torch", _official),
        TORCH_COMPILED: ("torch", lambda job: _official(job, compiled=True)),
        "CvT13, predict": ("tensorflow", lambda job: _predict(_cvt13(job), job)),
        "CvT13, graph": ("tensorflow", lambda job: _graph(_cvt13(job), job)),
        "CvT13 deployed, predict": (
            "tensorflow",
            lambda job: _predict(_cvt13(job, deployed=True), job),
        ),
        "CvT13 deployed, graph": (
            "tensorflow",
            lambda job: _graph(_cvt13(job, deployed=True), job),
        ),
        "CvT13 deployed, graph, bfloat16": (
            "tensorflow",
            lambda job: _graph(_cvt13(job, BFLOAT16, deployed=True), job),
        ),
        "LiteRT": ("tensorflow", _litert),
        "LiteRT, dynamic": ("tensorflow", lambda job: _litert(job, "dynamic")),
        "LiteRT, int8": ("tensorflow", lambda job: _litert(job, "int8")),
        "OpenVINO, f32": ("tensorflow", lambda job: _openvino(job, "f32")),
        "OpenVINO, bf16": ("tensorflow", lambda job: _openvino(job, "bf16")),
        "ConvNeXtTiny": ("tensorflow", lambda job: _application("ConvNeXtTiny", job)),
        "EfficientNetV2S": ("tensorflow", lambda job: _application("EfficientNetV2S", job)),
        "ResNet50": ("tensorflow", lambda job: _application("ResNet50", job)),
    },
    "training": {
        TORCH_EAGER: ("torch", _official_step),
        "official PyTorch, eager, bfloat16": (
            "torch",
            lambda job: _official_step(job, autocast=True),
        ),
        "CvT13, fit": ("tensorflow", _fit),
        "CvT13, fit, bfloat16": ("tensorflow", lambda job: _fit(job, BFLOAT16)),
        "CvT13, fit, recompute": ("tensorflow", lambda job: _fit(job, recompute=True)),
    },
}


def _start(environment: str, job: Job) -> dict[str, str]:
    """Starts the framework on so many threads; returns its version."""
    if environment == "tensorflow":
        import tensorflow as tf

        # TensorFlow starts independent operations at once, and shares out each of them.
        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)
        return {"tensorflow": tf.__version__, "keras": tf.keras.__version__}
    import torch

    torch.set_num_threads(job.threads)
    return {"torch": torch.__version__}


def _memory(peak: bool) -> int:
    """Bytes of memory that this process has, or the most that it ever had. 0 if that is not known."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:" if peak else "VmRSS:"):
                return 1024 * int(line.split()[1])
    return 0


def main(argv: list[str] | None = None) -> None:
    (job,) = argv or sys.argv[1:]
    job = Job(**json.loads(job))
    # Whatever libraries print goes to the standard error: the standard output is for answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    environment, make = CONTENDERS[job.task][job.name]
    facts = _start(environment, job)
    run = make(job)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = _memory(peak=False)
    run(2)
    print(json.dumps(facts), file=answers)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "bytes": _memory(peak=True) - before}), file=answers)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
