"""Random crop, flip and shift."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from training.augment.boxes import TRIES, first_fitting, random_boxes
from training.augment.keys import CROP, FLIP, SHIFT, step_key, uniform


def crop_box(
    height: Any,
    width: Any,
    key: tf.Tensor,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tf.Tensor:
    """Draws the box of a random resized crop.

    Ten times an area and an aspect ratio are drawn (the ratio's logarithm uniformly); the first box
    that fits is put somewhere in the image. If none fits, the result is the largest central box
    whose ratio is within bounds. Source: torchvision's and timm's `RandomResizedCrop`.

    Args:
        height, width: Size of the image in pixels; integers.
        key: Key of the draws, int64 (2,).
        scale: Bounds of the box's share of the image's area. Defaults to (0.08, 1).
        ratio: Bounds of width / height. Defaults to (3/4, 4/3).

    Returns:
        int32 (4,): top, left, height, width, as `tf.io.decode_and_crop_jpeg` takes it.
    """
    image_height, image_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    draws = uniform(key, CROP, [4, TRIES])
    boxes = random_boxes(draws, image_height, image_width, scale, width_to_height=ratio)
    heights, widths = boxes[:, 2], boxes[:, 3]
    fits = (heights <= image_height) & (widths <= image_width) & (heights > 0) & (widths > 0)

    central_height = tf.minimum(image_height, tf.round(image_width / ratio[0]))
    central_width = tf.minimum(image_width, tf.round(image_height * ratio[1]))
    top = (image_height - central_height) // 2
    left = (image_width - central_width) // 2
    central = tf.stack([top, left, central_height, central_width])
    return tf.cast(tf.where(tf.reduce_any(fits), first_fitting(boxes, fits), central), tf.int32)


def flip(image: tf.Tensor, key: tf.Tensor, probability: float = 0.5) -> tf.Tensor:
    """Flips an image (height, width, channels) horizontally with this probability."""
    mirrored = uniform(key, FLIP, []) < probability
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: tf.identity(image))


def shift(image: tf.Tensor, key: tf.Tensor, limit: int) -> tf.Tensor:
    """Moves an image by a random whole number of pixels, at most `limit`, in each direction.

    What comes from outside is 0. The image is (height, width, channels), of any type.
    """
    padded = tf.pad(image, [[limit, limit], [limit, limit], [0, 0]])
    top, left = tf.unstack(
        tf.random.stateless_uniform([2], step_key(key, SHIFT), 0, 2 * limit + 1, tf.int32)
    )
    return tf.ensure_shape(tf.slice(padded, [top, left, 0], tf.shape(image)), image.shape)
