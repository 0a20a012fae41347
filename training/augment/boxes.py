"""Boxes in an image: random ones, and which values are inside."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

TRIES = 10  # for a box that fits


def random_boxes(
    draws: tf.Tensor,
    height: tf.Tensor,
    width: tf.Tensor,
    area: tuple[float, float],
    *,
    width_to_height: tuple[float, float] | None = None,
    height_to_width: tuple[float, float] | None = None,
) -> tf.Tensor:
    """Draws boxes somewhere in an image. They may be larger than the image: see `first_fitting`.

    Args:
        draws: float32 (4, tries), uniform from 0 to 1: area, aspect ratio, top and left of each box.
        height, width: Of the image, float32 ().
        area: Bounds of a box's share of the image's area, which is uniform between them.
        width_to_height, height_to_width: One of the two: bounds of the aspect ratio, whose logarithm
            is uniform between them.

    Returns:
        float32 (tries, 4), whole numbers: top, left, height, width.
    """
    share, aspect, top, left = tf.unstack(draws)
    pixels = (area[0] + (area[1] - area[0]) * share) * height * width
    low, high = (math.log(bound) for bound in width_to_height or height_to_width)
    aspect = tf.exp(low + (high - low) * aspect)
    long, short = tf.round(tf.sqrt(pixels * aspect)), tf.round(tf.sqrt(pixels / aspect))
    widths, heights = (long, short) if width_to_height else (short, long)
    tops = tf.floor(top * (height - heights + 1))
    lefts = tf.floor(left * (width - widths + 1))
    return tf.stack([tops, lefts, heights, widths], axis=1)


def first_fitting(boxes: tf.Tensor, fits: tf.Tensor) -> tf.Tensor:
    """Chooses the first of the boxes (tries, 4) that fits: (4,). If none does, the first of all."""
    return tf.gather(boxes, tf.argmax(fits))


def in_box(shape: Any, top: Any, left: Any, height: Any, width: Any) -> tf.Tensor:
    """Tells the values in a box: bool (image height, image width * channels).

    Args:
        shape: Of the image: height, width, channels.
    """
    y = tf.range(shape[0])[:, tf.newaxis]
    x = tf.repeat(tf.range(shape[1]), shape[2])
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
