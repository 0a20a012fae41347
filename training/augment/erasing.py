"""Random erasing."""

from __future__ import annotations

import tensorflow as tf

from training.augment.boxes import TRIES, first_fitting, in_box, random_boxes
from training.augment.keys import ERASE, ERASE_NOISE, step_key, uniform
from training.augment.layout import in_rows


def erase(
    image: tf.Tensor,
    key: tf.Tensor,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> tf.Tensor:
    """Replaces a random box by normal noise, with this probability.

    Boxes as high or as wide as the image are rejected; after ten of them the image stays whole.
    Source: timm's `RandomErasing` in mode "pixel" with one box.

    Args:
        image: float32 (height, width, channels), normalized.
        key: Key of the draws, int64 (2,).
        probability: Probability of trying to place a box. Defaults to 0.25.
        area: Bounds of the box's share of the image's area. Defaults to (0.02, 1/3).
        ratio: Bounds of height / width, whose logarithm is uniform. Defaults to (0.3, 1/0.3).

    Returns:
        An image of the same type and shape.
    """
    shape = tf.shape(image)
    image_height, image_width = tf.unstack(tf.cast(shape[:2], tf.float32))
    draws = uniform(key, ERASE, [4 * TRIES + 1])
    boxes = random_boxes(
        tf.reshape(draws[1:], [4, TRIES]), image_height, image_width, area, height_to_width=ratio
    )
    fits = (boxes[:, 2] < image_height) & (boxes[:, 3] < image_width)

    def erased():
        box = tf.cast(first_fitting(boxes, fits), tf.int32)
        top, left, height, width = tf.unstack(box)
        noise = tf.random.stateless_normal(
            [height, width, shape[2]], step_key(key, ERASE_NOISE), dtype=image.dtype
        )
        margins = [[top, shape[0] - top - height], [left, shape[1] - left - width], [0, 0]]
        inside = in_box(shape, top, left, height, width)
        rows = tf.where(inside, in_rows(tf.pad(noise, margins)), in_rows(image))
        return tf.reshape(rows, shape)

    there = (draws[0] < probability) & tf.reduce_any(fits)
    return tf.ensure_shape(tf.cond(there, erased, lambda: tf.identity(image)), image.shape)
