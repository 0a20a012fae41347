"""Random erasing."""

from __future__ import annotations

import math

import tensorflow as tf

from training.augment.common import ERASE, ERASE_NOISE, TRIES, in_box, step_key, uniform
from training.augment.operations import in_rows


def erase(
    image: tf.Tensor,
    key: tf.Tensor,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> tf.Tensor:
    """Replaces a random box by normal noise, with this probability.

    Source: timm's `RandomErasing` in mode "pixel" with one box. Boxes as high or as wide as the
    image are refused; after ten such the image stays whole.

    Args:
        image: float32 (height, width, channels), normalized.
        key: int64 (2,).
        probability: of trying to place a box.
        area: bounds of the box's share of the image.
        ratio: bounds of height / width, whose logarithm is uniform.

    Returns:
        As `image`.
    """
    shape = tf.shape(image)
    image_height, image_width = tf.unstack(tf.cast(shape[:2], tf.float32))
    draws = uniform(key, ERASE, [4 * TRIES + 1])
    share, aspect, top, left = tf.unstack(tf.reshape(draws[1:], [4, TRIES]))
    share = (area[0] + (area[1] - area[0]) * share) * image_height * image_width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + (high - low) * aspect)
    heights, widths = tf.round(tf.sqrt(share * aspect)), tf.round(tf.sqrt(share / aspect))
    fits = (heights < image_height) & (widths < image_width)
    tops = tf.floor(top * (image_height - heights + 1))
    lefts = tf.floor(left * (image_width - widths + 1))
    boxes = tf.cast(tf.stack([tops, lefts, heights, widths], axis=1), tf.int32)

    def erased():
        top, left, height, width = tf.unstack(tf.gather(boxes, tf.argmax(fits)))
        noise = tf.random.stateless_normal(
            [height, width, shape[2]], step_key(key, ERASE_NOISE), dtype=image.dtype
        )
        margins = [[top, shape[0] - top - height], [left, shape[1] - left - width], [0, 0]]
        box = in_box(shape, top, left, height, width)
        rows = tf.where(box, in_rows(tf.pad(noise, margins)), in_rows(image))
        return tf.reshape(rows, shape)

    there = (draws[0] < probability) & tf.reduce_any(fits)
    return tf.ensure_shape(tf.cond(there, erased, lambda: tf.identity(image)), image.shape)
