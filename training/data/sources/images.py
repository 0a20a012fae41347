"""What every source gives: a part of its images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_cvt import imagenet

Example = dict[str, tf.Tensor]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")  # what TensorFlow decodes


@dataclasses.dataclass(frozen=True)
class Images:
    """A part of a source, such as its training images. It has exactly one of `at` and `stream`.

    An example is a dict of

        image: string (), an encoded JPEG, PNG, BMP, GIF or WebP file; or uint8 (height, width,
            channels), decoded already.
        labels: int64 (n,), the classes that are right. More or less than one of them has only
            ImageNet-ReaL, and an image with none does not count.
        name: string (), by which a person finds the image.

    Attributes:
        count: number of images.
        class_names: for each label.
        synsets: for each label, if all classes are called so in the source and are ImageNet-1k's;
            else None.
        split: which images of the source these are, in the words of tensorflow_datasets.
        channels: 3, or 1 for grey images.
        mean, std: of the channels' values in [0, 1], to normalize with.
        at: gives the example at an int64 index () in [0, count). Of ArrayRecord it calls Python, so
            only in this process.
        stream: takes (key, worker, workers) and gives a data set of a worker's share of the examples;
            all workers' together are each example once, and differ in size by one at most. The order
            depends on nothing but the key, int64 (2,); None is the order of the files. May be called
            in a function of `tf.data`.
    """

    count: int
    class_names: tuple[str, ...]
    synsets: tuple[str, ...] | None = None
    split: str = "all"
    channels: int = 3
    mean: tuple[float, ...] = imagenet.MEAN
    std: tuple[float, ...] = imagenet.STD
    at: Callable[[tf.Tensor], Example] | None = None
    stream: Callable[[tf.Tensor | None, int, int], tf.data.Dataset] | None = None


def named(classes: Sequence[str]) -> dict[str, Any]:
    """The fields of `Images` for classes of these names; ImageNet's synsets get their English ones."""
    english = dict(zip(imagenet.synsets(), imagenet.labels(), strict=True))
    if not all(name in english for name in classes):
        return {"class_names": tuple(classes)}
    return {"class_names": tuple(english[name] for name in classes), "synsets": tuple(classes)}
