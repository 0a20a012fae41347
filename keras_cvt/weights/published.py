"""The weights that the authors published."""

from __future__ import annotations

import dataclasses

from keras_cvt._tables import aligned


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights that the authors published, all for the 1000 classes of ImageNet-1k.

    Attributes:
        model: name of the model's constructor.
        names: what `weights` calls them.
        repo: repository on the Hugging Face hub.
        revision: its commit: the whole one where it is known, otherwise "main".
        image_size: pixels, of training and evaluation.
        crop: fraction of the short side that the official evaluation keeps; None resizes straight.
        top1, real, v2: the paper's accuracy in percent (Table 3) on ImageNet's validation images,
            with the ReaL labels, and on ImageNet V2 (matched frequency).
    """

    model: str
    names: tuple[str, ...]
    repo: str
    revision: str
    image_size: int
    crop: float | None
    top1: float
    real: float
    v2: float


# Where the revision is "main", only the first digits of the commit are known, which do not do.
# fmt: off
_22K = "imagenet22k-384"

PUBLISHED = (
    Published("CvT13", ("imagenet",), "microsoft/cvt-13",
              "84e365a5f6a5ca987486abb25f3d8e5265cdc44d", 224, 0.875, 81.6, 86.7, 70.4),
    Published("CvT13", ("imagenet-384",), "microsoft/cvt-13-384",
              "a14331452cabd82f5ba2f8efa77011b78b093f21", 384, None, 83.0, 87.9, 71.9),
    Published("CvT13", (_22K,), "microsoft/cvt-13-384-22k", "main", 384, None, 83.3, 88.7, 72.9),
    Published("CvT21", ("imagenet",), "microsoft/cvt-21", "main", 224, 0.875, 82.5, 87.2, 71.3),
    Published("CvT21", ("imagenet-384",), "microsoft/cvt-21-384", "main", 384, None, 83.3, 87.7, 71.9),
    Published("CvT21", (_22K,), "microsoft/cvt-21-384-22k", "main", 384, None, 84.9, 89.8, 75.6),
    Published("CvTW24", (_22K, "imagenet"), "microsoft/cvt-w24-384-22k", "main",
              384, None, 87.7, 90.6, 78.8),
)
# fmt: on


def table() -> str:
    """The published weights as a table: `print(keras_cvt.weights.table())`."""
    head = ("model", "weights=", "pixels", "crop", "top-1", "ReaL", "V2", "repository", "revision")
    rows = [
        (
            row.model,
            " or ".join(row.names),
            str(row.image_size),
            "none" if row.crop is None else str(row.crop),
            str(row.top1),
            str(row.real),
            str(row.v2),
            row.repo,
            row.revision[:12],
        )
        for row in PUBLISHED
    ]
    return "\n".join(aligned([head, *rows]))


def names_of(model: str) -> str:
    """The names of a model's published weights, as a phrase."""
    rows = [row for row in PUBLISHED if row.model == model]
    return ", ".join(f'"{name}" ({row.image_size} pixels)' for row in rows for name in row.names)
