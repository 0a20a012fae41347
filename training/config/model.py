"""Which CvT is trained, and from which weights."""

from __future__ import annotations

import dataclasses

from keras_cvt.architecture import VARIANTS
from training.config.fields import LESS_THAN_1, Section, setting

MODELS = (*map(str.lower, VARIANTS), "custom")
INITS = {"trunc_norm": None, "xavier": "glorot_uniform"}  # `kernel_initializer` of keras_cvt


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """Which CvT is trained, and from which weights.

    Attributes:
        variant: One of `MODELS`; "custom" is given by `dims`, `depths`, `heads` and `patch`. Its key is
            `model`.
        dims, depths, heads: Channels, number of blocks and attention heads of each stage of a custom
            CvT. The last stage has the class token.
        patch: Kernel size, stride and padding of the first stage's embedding, in pixels. The other
            stages have the official 3, 2, 1.
        init: Initializer of the linear projections: "trunc_norm", as in the official models, or
            "xavier", the other official option, with which narrow models learn faster.
        drop_path_rate: Of the last stage's last block, in [0, 1); none: the model's own.
        weights: To start from: a published name such as "imagenet", or a file. If its classes are not
            those of the images, the head is new. none: random.
        recompute: Whether attention and MLPs are recomputed for their gradients instead of kept
            (gradient checkpointing): for images that do not fit into memory, at about 15 % more time.
    """

    variant: str = setting("custom", choices=MODELS, key="model")
    dims: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    patch: tuple[int, ...] = (7, 4, 2)
    init: str = setting("trunc_norm", choices=tuple(INITS))
    drop_path_rate: float | None = setting(None, LESS_THAN_1)
    weights: str | None = None
    recompute: bool = setting(False, may_change=True)

    def __post_init__(self):
        super().__post_init__()
        if self.variant == "custom":
            self.check("dims", len(self.dims) >= 1, "at least one stage's channels")
            self.check("patch", len(self.patch) == 3, "kernel size, stride and padding")
        for name in ("depths", "heads"):
            right = f"one value for each of the {len(self.dims)} stages of `dims`"
            self.check(name, len(getattr(self, name)) == len(self.dims), right)
        if self.variant != "custom":
            self.check("dims", not self.dims, "left out, or `model` custom")
