"""What `benchmarks.inference` compares, each in a process of its own.

    python -m benchmarks.contenders NAME BATCH THREADS

makes a contender, writes a line of JSON (versions), then answers each line of the standard input, a
number of batches, with the seconds that they took. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

Runner = Callable[[int], None]  # computes so many batches

SIZE = 224


def _images(batch: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(batch, SIZE, SIZE, 3)).astype("float32")


def _graph(model, batch: int) -> Runner:
    """A model as a served SavedModel computes it: a graph of operations, without Keras around it."""
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False))
    images = tf.constant(_images(batch))

    def run(batches: int) -> None:
        for _ in range(batches):
            function(images).numpy()

    return run


def _predict(model, batch: int) -> Runner:
    images = _images(batch)

    def run(batches: int) -> None:
        model.predict(
            np.broadcast_to(images, (batches, *images.shape)).reshape(-1, *images.shape[1:]),
            batch_size=batch,
            verbose=0,
        )

    return run


def _cvt13(batch: int, deployed: bool, runner, dtype: str = "float32") -> Runner:
    import keras_cvt

    model = keras_cvt.CvT13(weights=None, dtype=dtype)
    return runner(keras_cvt.deploy(model) if deployed else model, batch)


def _application(name: str, batch: int) -> Runner:
    import keras

    return _graph(getattr(keras.applications, name)(weights=None), batch)


def _official(batch: int, compiled: bool) -> Runner:
    """Hugging Face's CvT-13 with QuickGELU, which equals the official code bit for bit."""
    import torch
    import transformers

    class QuickGELU(torch.nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(1.702 * x)

    model = transformers.CvtForImageClassification(transformers.CvtConfig(num_labels=1000)).eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "GELUActivation" or isinstance(child, torch.nn.GELU):
                setattr(module, name, QuickGELU())
    if compiled:
        model = torch.compile(model)
    images = torch.tensor(_images(batch)).permute(0, 3, 1, 2).contiguous()

    def run(batches: int) -> None:
        with torch.inference_mode():
            for _ in range(batches):
                model(images).logits.numpy()

    return run


TORCH_EAGER = "official PyTorch, eager"

# What runs in the torch environment, and all the rest, which runs in the TensorFlow environment.
TORCH = {
    TORCH_EAGER: lambda batch: _official(batch, compiled=False),
    "official PyTorch, torch.compile": lambda batch: _official(batch, compiled=True),
}
TENSORFLOW = {
    "CvT13, predict": lambda batch: _cvt13(batch, deployed=False, runner=_predict),
    "CvT13, graph": lambda batch: _cvt13(batch, deployed=False, runner=_graph),
    "CvT13 deployed, predict": lambda batch: _cvt13(batch, deployed=True, runner=_predict),
    "CvT13 deployed, graph": lambda batch: _cvt13(batch, deployed=True, runner=_graph),
    "CvT13 deployed, graph, bfloat16": lambda batch: _cvt13(
        batch, deployed=True, runner=_graph, dtype="mixed_bfloat16"
    ),
    "ConvNeXtTiny": lambda batch: _application("ConvNeXtTiny", batch),
    "EfficientNetV2S": lambda batch: _application("EfficientNetV2S", batch),
    "ResNet50": lambda batch: _application("ResNet50", batch),
}


def main(argv: list[str] | None = None) -> None:
    name, batch, threads = argv or sys.argv[1:]
    # Whatever libraries print goes to the standard error: the standard output is for answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if name in TORCH:
        import torch

        torch.set_num_threads(int(threads))
        versions = {"torch": torch.__version__}
    else:
        import tensorflow as tf

        # TensorFlow starts independent operations at once, and shares out each of them.
        tf.config.threading.set_intra_op_parallelism_threads(int(threads))
        tf.config.threading.set_inter_op_parallelism_threads(int(threads))
        versions = {"tensorflow": tf.__version__, "keras": tf.keras.__version__}
    run = {**TORCH, **TENSORFLOW}[name](int(batch))
    run(2)
    print(json.dumps(versions), file=answers)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(time.perf_counter() - start, file=answers)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
