"""Resizing as Pillow does it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_cvt.images.graph import KERNELS
from training.augment.layout import to_uint8


def resize(image: tf.Tensor, size: Any, interpolation: str = "bicubic") -> tf.Tensor:
    """Resizes with antialiasing, as Pillow does but for the rounding. For training.

    Pillow also rounds, and clips to [0, 255], between its two passes; here that is done only at the
    end. (Evaluation has `keras_cvt.images.graph.resize_and_crop`, which rounds as Pillow does.) Of
    photos resized to 224 pixels, 4 to 21 % of the values differ, nearly all by one (at most by 12,
    beside a hard edge), and 0.04 to 0.21 on average. TensorFlow's bicubic without antialiasing is
    another function: it differs by 5 on average when photos are shrunk to half their size.

    Args:
        image: (height, width, channels), uint8 or float from 0 to 255.
        size: Of the result: one integer for a square, or (height, width), which may be a tensor.
        interpolation: "bicubic" or "bilinear".

    Returns:
        uint8 (height, width, channels).
    """
    size = (size, size) if isinstance(size, int) else tf.unstack(size)
    known = [side if isinstance(side, int) else None for side in size]
    resized = to_uint8(_resize(image, *size, interpolation))
    return tf.ensure_shape(resized, (*known, image.shape[2]))


def _resize(image, height, width, interpolation):
    """What `tf.image.resize` gives with antialias, in float32, up to rounding.

    That takes value by value three times as long as matrix products. But most weights of a product
    over a whole side were zero: eight rows of the result have their own few of the image.
    """
    rows, columns, channels = tf.unstack(tf.shape(image))
    # TensorFlow prepares a product for each new shape, which takes longer than the product: so there
    # must be few widths.
    padded = -(-columns // 32) * 32
    image = tf.pad(image, [[0, 0], [0, padded - columns], [0, 0]])
    places, weights = _resize_weights(rows, height, interpolation)
    image = tf.gather(tf.reshape(image, [rows, -1]), places)
    image = tf.reshape(tf.matmul(weights, tf.cast(image, tf.float32)), [-1, padded * channels])
    # Now the columns, each with all its rows.
    image = tf.reshape(tf.transpose(image[:height]), [padded, -1])
    places, weights = _resize_weights(columns, width, interpolation)
    image = tf.matmul(weights, tf.gather(image, places))
    image = tf.transpose(tf.reshape(image, [-1, height])[: width * channels])
    return tf.reshape(image, [height, width, channels])


def _resize_weights(size, result, interpolation):
    """Of one side: for each eight pixels of the result, where they come from and with what weights.

    int32 (eights, length) and float32 (eights, 8, length). The last eight may be too many.
    """
    radius, kernel = KERNELS[interpolation]
    scale = tf.cast(size / result, tf.float32)
    stretch = tf.maximum(scale, 1)
    length = tf.cast(tf.math.ceil(7 * scale + 2 * radius * stretch), tf.int32) + 1
    length = tf.minimum(length, size)
    centers = (tf.range(-(-result // 8) * 8, dtype=tf.float32) + 0.5) * scale - 0.5
    centers = tf.reshape(tf.minimum(centers, tf.cast(size, tf.float32)), [-1, 8, 1])
    first = tf.cast(tf.math.ceil(centers[:, 0] - radius * stretch), tf.int32)
    places = tf.clip_by_value(first, 0, size - length) + tf.range(length)
    distances = (tf.cast(places, tf.float32)[:, tf.newaxis] - centers) / stretch
    weights = kernel(tf.abs(distances))
    return places, weights / tf.reduce_sum(weights, axis=2, keepdims=True)
