"""Contenders that torch computes: Hugging Face's CvT, timm's models, and this library's models."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

from benchmarks.gpu import cases, kernels
from benchmarks.gpu.cases import Job


def facts(job: Job) -> dict[str, str]:
    found = {"torch": torch.__version__}
    if job.device == "gpu":
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU; --device cpu tries this out.")
        found |= {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        found["cudnn"] = str(torch.backends.cudnn.version())
    for word, module in (("Hugging Face", "transformers"), ("timm", "timm")):
        if word in job.contender:
            found[module] = metadata.version(module)
    return found


class Program:
    """A function that is compiled by its first call, and computes batches.

    Attributes:
        memory: the most bytes that tensors took at once since it was compiled; with `graphs`, whose
            replays are not counted, what is kept for them.
    """

    def __init__(self, step: Callable[[], Any], device: str, inference: bool, graphs: bool = False):
        self._step, self._device, self._inference = step, device, inference
        self._graphs = graphs
        self.memory = 0

    def compile(self) -> None:
        self.run(3)
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def run(self, batches: int) -> None:
        with torch.inference_mode(self._inference):
            for _ in range(batches):
                self._step()
        if self._device == "cuda":
            torch.cuda.synchronize()
            count = torch.cuda.memory_reserved if self._graphs else torch.cuda.max_memory_allocated
            self.memory = count()

    def profile(self, batches: int) -> dict[str, Any]:
        """The kernels of so many batches: see `kernels.table`."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
            self.run(batches)
        found = [
            (event.name, "", event.time_range.elapsed_us() / 1e3)
            for event in profiler.events()
            if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
        ]
        return kernels.table(found, batches, {})


def make(job: Job) -> Program:
    """The contender of this name, not compiled yet."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TensorFloat-32, in convolutions, too
    torch.backends.cudnn.allow_tf32 = True
    device = "cuda" if job.device == "gpu" else "cpu"
    if job.device == "cpu":
        torch.set_num_threads(job.threads)
    if job.task == "product":
        dtype = torch.bfloat16 if job.dtype == "bfloat16" else torch.float32
        a, b = (torch.randn(job.size, job.size, device=device, dtype=dtype) for _ in range(2))
        return Program(lambda: a @ b, device, inference=True)
    ours = job.contender.startswith("Keras/")
    shape = (job.batch, job.size, job.size, 3) if ours else (job.batch, 3, job.size, job.size)
    images = torch.randn(shape, device=device)
    if ours:
        model = _keras_model(job, images)
    elif "timm" in job.contender:
        model, images = _timm_model(job, images)
    else:
        with torch.device(device):  # where hundreds of millions of random numbers take no time
            model = _hugging_face_model(job)
    if job.task == "training":
        return _training(job, model, images, device)
    if not ours:
        model = model.eval()
        if job.dtype == "bfloat16":
            model, images = model.bfloat16(), images.bfloat16()
    model = _compiled(job, model)
    return Program(lambda: model(images), device, inference=True, graphs=_has_graphs(job))


def _has_graphs(job: Job) -> bool:
    return "CUDA graphs" in job.contender


def _compiled(job: Job, model: Callable) -> Callable:
    if ", compiled" not in job.contender:
        return model
    if job.device == "cpu":
        # The capture is tried out, without minutes of a C++ compiler.
        return torch.compile(model, dynamic=False, backend="aot_eager")
    mode = "reduce-overhead" if _has_graphs(job) else None
    return torch.compile(model, dynamic=False, mode=mode)


def _training(job: Job, model: torch.nn.Module, images: torch.Tensor, device: str) -> Program:
    """A step with AdamW; in mixed precision by Keras' policy of our model, by autocast of others."""
    ours = job.contender.startswith("Keras/")
    model.train()
    parameters = [v.value for v in model.trainable_variables] if ours else list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.05, fused=True)
    labels = torch.arange(job.batch, device=device) % cases.CLASSES
    forward = _compiled(job, model)
    options = {"training": True} if ours else {}

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=not ours):
            logits = forward(images, **options)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Program(step, device, inference=False, graphs=_has_graphs(job))


class _QuickGELU(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Logits(torch.nn.Module):
    """Tensors out, as a compiled function returns them best."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model(images, return_dict=True).logits


def _hugging_face_model(job: Job) -> torch.nn.Module:
    """Hugging Face's CvT with QuickGELU, which equals the official code bit for bit."""
    import transformers

    from keras_cvt.architecture import VARIANTS

    stages = VARIANTS[job.model]
    config = transformers.CvtConfig(
        num_labels=cases.CLASSES,
        embed_dim=[stage.embed_dim for stage in stages],
        depth=[stage.depth for stage in stages],
        num_heads=[stage.num_heads for stage in stages],
        drop_path_rate=[stage.drop_path_rate for stage in stages],
    )
    model = transformers.CvtForImageClassification(config)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "GELUActivation" or isinstance(child, torch.nn.GELU):
                setattr(module, name, _QuickGELU())
    return _Logits(model)


def _timm_model(job: Job, images: torch.Tensor) -> tuple:
    import timm

    name = job.contender.partition(" of timm")[0]
    # The sizes that a name ends in are the default; a convolutional network takes any.
    options = {} if "convnext" in name else {"img_size": job.size}
    model = timm.create_model(name, num_classes=cases.CLASSES, drop_path_rate=0.1, **options)
    memory = torch.channels_last if "convnext" in name else torch.contiguous_format
    return model.to(images.device, memory_format=memory), images.to(memory_format=memory)


def _keras_model(job: Job, images: torch.Tensor) -> torch.nn.Module:
    """Our model; to be compiled, as `torch.export` writes it down.

    (torch.compile alone meets Python in Keras' layers that it can't follow, and leaves most operations
    as they are. A graph written down in training has no gradient: so training is not compiled.)
    """
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras_cvt

    model = getattr(keras_cvt, job.model)(
        weights=None,
        input_shape=(job.size, job.size, 3),
        classes=cases.CLASSES,
        classifier_activation=None,
        dtype="mixed_bfloat16" if job.dtype == "bfloat16" else "float32",
    )
    if ", deployed" in job.contender:
        model = keras_cvt.deploy(model)
    if ", compiled" not in job.contender:
        return model

    class Inference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images, training=False)

    with torch.no_grad():
        return torch.export.export(Inference(), (images,), strict=False).module()
