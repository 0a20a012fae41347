"""What is measured on a GPU, in the order of its importance: time may not be enough for all of it."""

from __future__ import annotations

import dataclasses

CLASSES = 1000

# Names of contenders: the framework that computes is the last word before a comma.
JAX, DEPLOYED = "Keras/JAX", "Keras/JAX, deployed"
TORCH, TORCH_TRAINING = "Keras/torch, deployed, compiled", "Keras/torch, eager"
EAGER, COMPILED = "Hugging Face/torch, eager", "Hugging Face/torch, compiled"
GRAPHS = "Hugging Face/torch, compiled, CUDA graphs"
PRODUCTS = ("product/torch", "product/JAX")

# Others that people would pick, with their published ImageNet accuracy at 224 pixels, trained on
# ImageNet-1k alone as CvT-13 (81.6 %).
PEERS = {
    "Swin-T of KerasHub/JAX": 81.2,
    "ConvNeXt-T of Keras/JAX": 82.1,
    "swin_tiny_patch4_window7_224 of timm/torch, compiled": 81.4,
    "convnext_tiny of timm/torch, compiled": 82.1,
    "deit3_small_patch16_224 of timm/torch, compiled": 81.4,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """Contenders that take turns at one task.

    Attributes:
        task: "inference", "training" or "product".
        model: of `keras_cvt.architecture.VARIANTS`; peers come in one size.
        size: height and width of the images.
        dtype: "bfloat16", or "tf32": float32, whose products are rounded to TensorFloat-32.
        batch: images; None for the largest power of two that fits, which the figures at another
            batch tell. So its only contender is measured alone.
        contenders: their names. Ratios are to the first.
        memory: what each contender takes, about, in GB of the GPU's, until it has ended.
        profiled: the contenders whose longest kernels are listed.
        note: what tells it from another case of the same task.
    """

    task: str
    model: str
    size: int
    dtype: str
    batch: int | None
    contenders: tuple[str, ...]
    memory: float = 4
    profiled: tuple[str, ...] = ()
    note: str = ""

    @property
    def title(self) -> str:
        if self.task == "product":
            return f"matrix product, {self.dtype}"
        batch = "largest batch" if self.batch is None else f"batch {self.batch}"
        note = self.note or (self.contenders[0] if self.batch is None else "")
        words = [self.model, str(self.size), self.task, self.dtype, batch]
        return " ".join(words) + (f", {note}" if note else "")


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process is asked to do: a contender of a case. Attributes as of `Case`.

    Attributes:
        device: "gpu" or "cpu".
        threads: of the processor, on "cpu".
    """

    contender: str
    task: str
    model: str
    size: int
    dtype: str
    batch: int
    device: str = "gpu"
    threads: int = 2

    @property
    def framework(self) -> str:
        return "jax" if "/JAX" in self.contender else "torch"


def _inference(model: str, size: int, dtype: str, batch: int, **options) -> Case:
    contenders = (COMPILED, EAGER, JAX, DEPLOYED, TORCH)
    if batch == 1:
        contenders = (COMPILED, GRAPHS, EAGER, DEPLOYED, TORCH)
    return Case(
        "inference", model, size, dtype, batch, options.pop("contenders", contenders), **options
    )


def _training(model: str, size: int, batch: int | None, contenders: tuple[str, ...], **options):
    return Case("training", model, size, "bfloat16", batch, contenders, **options)


def all_cases() -> list[Case]:
    """In the order in which they are measured."""
    return [*_products(), *_goals(), *_others()]


def _products() -> list[Case]:
    dtypes = ("bfloat16", "tf32")
    return [Case("product", "", 8192, dtype, 1, PRODUCTS, memory=2) for dtype in dtypes]


def _goals() -> list[Case]:
    """What is to be reached."""
    half = "bfloat16"
    return [
        _inference(
            "CvT13",
            224,
            half,
            256,
            contenders=(COMPILED, JAX, DEPLOYED, TORCH),
            memory=6,
            profiled=(DEPLOYED,),
        ),
        # CUDA graphs show what torch reaches where the processor is no limit.
        _training("CvT13", 224, 128, (COMPILED, GRAPHS, JAX), memory=18, profiled=(JAX,)),
        _inference(
            "CvTW24",
            384,
            half,
            64,
            contenders=(COMPILED, DEPLOYED),
            memory=12,
            profiled=(DEPLOYED,),
        ),
        # JAX's allocator takes up to half as much again as the program needs.
        _training("CvTW24", 384, 16, (COMPILED, JAX), memory=36, profiled=(JAX,)),
        _inference("CvT13", 224, half, 1, contenders=(COMPILED, GRAPHS, DEPLOYED), memory=1),
        _inference("CvT13", 224, "tf32", 256, contenders=(COMPILED, DEPLOYED), memory=10),
        _inference("CvT13", 384, half, 256, contenders=(COMPILED, DEPLOYED), memory=23),
    ]


def _others() -> list[Case]:
    """Other precisions, sizes, batches and models."""
    half, others = "bfloat16", "other models"
    wide, peers = (COMPILED, DEPLOYED), (*PEERS,)
    return [
        _inference("CvT13", 224, half, 256, contenders=(DEPLOYED, *peers), memory=6, note=others),
        _training("CvT13", 224, 128, (COMPILED, EAGER, TORCH_TRAINING), memory=16, note="eager"),
        *(_training("CvT13", 224, None, (name,), memory=70) for name in (COMPILED, JAX)),
        _inference("CvT13", 224, half, 64, memory=3),
        _training("CvT13", 384, 64, (COMPILED, JAX), memory=33),
        _inference("CvT13", 384, half, 64, memory=8),
        _inference("CvT13", 384, half, 1, memory=1),
        _inference("CvT13", 224, "tf32", 1, memory=1),
        _inference("CvTW24", 384, half, 1, contenders=(COMPILED, GRAPHS, DEPLOYED), memory=4),
        _training("CvT13", 224, 128, (JAX, *peers), memory=12, note=others),
        _inference("CvT13", 224, "tf32", 64, memory=4),
        _inference("CvT13", 384, "tf32", 64, memory=12),
        _inference("CvTW24", 384, "tf32", 64, contenders=wide, memory=35),
        *(_training("CvT13", 224, None, (name,), memory=70) for name in (EAGER, TORCH_TRAINING)),
        *(_training("CvT13", 384, None, (name,), memory=70) for name in (COMPILED, JAX)),
        *(_training("CvTW24", 384, None, (name,), memory=70) for name in (COMPILED, JAX)),
    ]
