"""How the values of an image lie: by rows, and as 8-bit pixels."""

from __future__ import annotations

import tensorflow as tf


def in_rows(image: tf.Tensor) -> tf.Tensor:
    """Reshapes (height, width, channels) to (height, width * channels)."""
    return tf.reshape(image, [tf.shape(image)[0], -1])


def for_rows(values: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """Repeats one value for each channel, (channels,), for the rows of `image`: (width * channels,)."""
    return tf.tile(values, [tf.shape(image)[1]])


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Rounds pixels from 0 to 255 to uint8, as they are between all steps."""
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
