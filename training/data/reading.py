"""From a file to pixels."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from training.data import sources
from training.data.dataset import Dataset


def interpolation(images: sources.Images) -> str:
    """Bicubic for photos; it would draw edges around the strokes of tiny drawings."""
    return "bicubic" if images.channels == 3 else "bilinear"


def read(
    images: sources.Images, row: sources.Example, box: Callable | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reads and decodes an image, or the part of it that `box` of its height and width gives.

    Returns:
        Pixels, uint8 (height, width, channels); float32 (classes,), 1 where a class is right; and the
        name if the image can't be read, else "". Such an image is black and has no class.
    """

    nothing = (
        tf.zeros((1, 1, images.channels), tf.uint8),
        tf.zeros((len(images.class_names),)),
        tf.constant(False),
    )
    # The only place where TensorFlow has a "try" is a data set: this one has an image or none.
    tried = Dataset.from_tensors(row).map(
        lambda row: (*read_good(images, row, box)[:2], tf.constant(True))
    )
    tried = tried.ignore_errors(log_warning=False).concatenate(Dataset.from_tensors(nothing))
    pixels, targets, good = tried.take(1).get_single_element()
    name = tf.cond(good, lambda: tf.constant(""), lambda: _example(images, row)["name"])
    return pixels, targets, tf.ensure_shape(name, ())


def read_good(
    images: sources.Images, row: sources.Example, box: Callable | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """As `read`, but faster; an image that can't be read is an error."""
    found = _example(images, row)
    pixels = tf.ensure_shape(_decode(found["image"], box), (None, None, images.channels))
    targets = tf.reduce_sum(tf.one_hot(found["labels"], len(images.class_names)), axis=0)
    return pixels, tf.minimum(targets, 1.0), tf.constant("")


def _example(images: sources.Images, row: sources.Example) -> sources.Example:
    return row if images.at is None else images.at(row["index"])


def _decode(image: tf.Tensor, box: Callable | None) -> tf.Tensor:
    if image.dtype == tf.uint8:
        return _cut(image, box)

    # TensorFlow's own choice is a faster transform, that differs by some gray levels from Pillow's.
    exact = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}

    def jpeg() -> tf.Tensor:
        if box is None:
            return tf.io.decode_jpeg(image, **exact)
        shape = tf.io.extract_jpeg_shape(image)
        return tf.io.decode_and_crop_jpeg(image, box(shape[0], shape[1]), **exact)

    def other() -> tf.Tensor:
        return _cut(tf.io.decode_image(image, channels=3, expand_animations=False), box)

    return tf.cond(tf.io.is_jpeg(image), jpeg, other)


def _cut(image: tf.Tensor, box: Callable | None) -> tf.Tensor:
    if box is None:
        return image
    shape = tf.shape(image)
    top, left, height, width = tf.unstack(box(shape[0], shape[1]))
    return image[top : top + height, left : left + width]
