"""The paper's own figures, where an evaluation is exactly one of the paper's."""

from __future__ import annotations

import re

from keras_cvt import imagenet
from keras_cvt.weights import Published
from training.config import DataConfig
from training.data import sources
from training.evaluation.subjects import Subject

# The data sets of the paper's Table 3: their split, and the figure of `keras_cvt.weights.Published`.
_OF_PAPER = {
    "tfds:imagenet2012": ("validation", "top1"),
    "tfds:imagenet2012_real": ("validation", "real"),
    "tfds:imagenet_v2": ("test", "v2"),
    "tfds:imagenet_v2/matched-frequency": ("test", "v2"),
}


def paper_figure(subject: Subject, data: DataConfig, images: sources.Source) -> float | None:
    """The paper's top-1 accuracy in this very evaluation, from 0 to 1; None if it has none.

    Args:
        subject: The model.
        data: The name of the images, and their size and crop.
        images: These images.
    """
    row = subject.weights
    if not isinstance(row, Published):
        return None
    if (data.image_size, data.evaluation_crop) != (row.image_size, row.crop):
        return None
    name = re.sub(r":[\d.*]+$", "", data.source)  # without the version
    split, figure = _OF_PAPER.get(name, (None, None))
    if split == images.split:
        return round(getattr(row, figure) / 100, 4)
    all_of_folder = name.startswith("folder:") and images.split in ("validation", "train")
    if all_of_folder and images.synsets == imagenet.synsets() and images.count == 50_000:
        return round(row.top1 / 100, 4)
    return None
