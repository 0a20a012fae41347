"""From a row of a source to pixels."""

from __future__ import annotations

import tensorflow as tf

from keras_cvt.images.graph import Box, decode_jpeg
from training.data.sources.source import Example, Source


def read(source: Source, row: Example, box: Box | None = None) -> Example:
    """Reads and decodes an image, or the part of it in a box.

    Args:
        source: Makes an example of the row.
        row: One of the source's.
        box: Gives the box (top, left, height, width) in an image of some height and width.

    Returns:
        image: uint8 (height, width, channels).
        targets: float32 (classes,), 1 where a class is right.
        damaged: string (), the image's name if it can't be read, else "". Such an image is black and
            has no class.
    """
    nothing = {
        "image": tf.zeros((1, 1, source.channels), tf.uint8),
        "targets": tf.zeros((len(source.class_names),)),
        "damaged": tf.constant("?"),
    }
    # The only place where TensorFlow has a "try" is a data set: this one has an image or none.
    tried = tf.data.Dataset.from_tensors(row).map(lambda row: read_good(source, row, box))
    tried = tried.ignore_errors(log_warning=False)
    found = tried.concatenate(tf.data.Dataset.from_tensors(nothing)).take(1).get_single_element()
    name = tf.cond(
        found["damaged"] == "", lambda: tf.constant(""), lambda: source.example(row)["name"]
    )
    return {**found, "damaged": tf.ensure_shape(name, ())}


def read_good(source: Source, row: Example, box: Box | None = None) -> Example:
    """Does what `read` does, but faster: an image that can't be read is an error."""
    example = source.example(row)
    image = tf.ensure_shape(_decode(example["image"], box), (None, None, source.channels))
    targets = tf.reduce_sum(tf.one_hot(example["labels"], len(source.class_names)), axis=0)
    return {"image": image, "targets": tf.minimum(targets, 1.0), "damaged": tf.constant("")}


def _decode(image: tf.Tensor, box: Box | None) -> tf.Tensor:
    """Decodes what an example has. Unlike `keras_cvt.load_image`, it drops an alpha channel."""
    if image.dtype == tf.uint8:
        return _cut(image, box)
    return tf.cond(
        tf.io.is_jpeg(image),
        lambda: decode_jpeg(image, box),
        lambda: _cut(tf.io.decode_image(image, channels=3, expand_animations=False), box),
    )


def _cut(image: tf.Tensor, box: Box | None) -> tf.Tensor:
    if box is None:
        return image
    shape = tf.shape(image)
    top, left, height, width = tf.unstack(box(shape[0], shape[1]))
    return image[top : top + height, left : left + width]
