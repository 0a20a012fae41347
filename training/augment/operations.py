"""RandAugment's fifteen operations, as Pillow calculates them, in TensorFlow.

All but the interpolating ones equal Pillow bit for bit. Those calculate in float32, where Pillow has
float64: up to six values in a thousand fall on the other side of a whole number and are off by one.

For speed, they work on rows of height × (width · 3) values: TensorFlow broadcasts over a last axis
of three channels twenty times slower than over a long one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from training.augment.layout import for_rows, in_rows


def apply_operation(
    name: str, image: tf.Tensor, magnitude: Any, sign: Any, fill: Sequence[int]
) -> tf.Tensor:
    """One of `OPERATIONS`.

    Args:
        name: timm's.
        image: uint8 (height, width, 3), both at least 2.
        magnitude: from 0 to 10.
        sign: 1 or -1, for operations that have two directions.
        fill: color of what comes from outside the image, three values from 0 to 255.

    Returns:
        uint8 (height, width, 3).
    """
    level_to_argument, operation = OPERATIONS[name]
    level = tf.cast(magnitude, tf.float64) / 10  # in float64, as Python calculates
    argument = level_to_argument(level, tf.cast(sign, tf.float64))
    return tf.reshape(operation(image, argument, tf.constant(fill, tf.uint8)), tf.shape(image))


def _whole(value):
    """Towards zero, as Python's int()."""
    return tf.cast(value, tf.int32)


# The operations are called with (image, argument, fill), and may give rows.


def _auto_contrast(image, argument, fill):
    """The darkest value of each channel becomes 0, the lightest 255; in between linearly."""
    low = tf.cast(tf.reduce_min(image, [0, 1]), tf.float64)
    high = tf.cast(tf.reduce_max(image, [0, 1]), tf.float64)
    scale = tf.where(high > low, 255 / tf.maximum(high - low, 1), 1)
    shift = tf.where(high > low, -low * scale, 0)
    values = tf.cast(in_rows(image), tf.float64)
    return tf.cast(values * for_rows(scale, image) + for_rows(shift, image), tf.uint8)


def _equalize(image, argument, fill):
    """Makes all values of a channel about as frequent. Source: Pillow's `ImageOps.equalize`."""
    # Green's values are moved by 256 and blue's by 512: one histogram, and one table, for all.
    places = tf.cast(in_rows(image), tf.int32) + for_rows(tf.constant([0, 256, 512]), image)
    counts = tf.reshape(tf.math.bincount(tf.reshape(places, [-1]), minlength=768), [3, 256])
    highest = tf.reduce_max(tf.where(counts > 0, tf.range(256), 0), axis=1)
    of_highest = tf.gather(counts, highest, batch_dims=1)
    step = ((tf.reduce_sum(counts, axis=1) - of_highest) // 255)[:, tf.newaxis]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    table = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    table = tf.where(step > 0, table, tf.range(256))
    return tf.gather(tf.cast(tf.reshape(table, [-1]), tf.uint8), places)


def _invert(image, argument, fill):
    return 255 - image


def _posterize(image, bits, fill):
    """Keeps the highest bits. None at magnitude 10, a black image, which newer Pillow refuses."""
    mask = tf.cast(256 - tf.bitwise.left_shift(1, 8 - bits), tf.uint8)
    return tf.bitwise.bitwise_and(image, mask)


def _solarize(image, threshold, fill):
    from_threshold = tf.cast(image, tf.int16) >= tf.cast(threshold, tf.int16)
    return tf.bitwise.bitwise_xor(image, tf.cast(from_threshold, tf.uint8) * 255)


def _solarize_add(image, addend, fill):
    """Adds, at most 110, to values below 128."""
    return image + tf.cast(image < 128, tf.uint8) * tf.cast(addend, tf.uint8)


# Pillow's enhancements blend with a degenerate image; a factor of 1 changes nothing.


def _blend(degenerate, image, factor):
    """In float32 and truncated, as Pillow; arguments are float32, the result uint8."""
    blended = degenerate + tf.cast(factor, tf.float32) * (image - degenerate)
    return tf.cast(tf.clip_by_value(blended, 0, 255), tf.uint8)


def _gray(image, channels):
    """Pillow's mode L, so many times: float32 (height * width, channels), whole numbers.

    With Pillow's fixed-point weights, whose sums stay below 2**24 and so are exact in float32.
    """
    weights = tf.tile([[19595.0], [38470.0], [7471.0]], [1, channels])
    pixels = tf.cast(tf.reshape(image, [-1, 3]), tf.float32)
    return tf.floor((tf.matmul(pixels, weights) + 32768) / 65536)


def _color(image, factor, fill):
    gray = tf.reshape(_gray(image, 3), tf.shape(image))
    return _blend(gray, tf.cast(image, tf.float32), factor)


def _contrast(image, factor, fill):
    mean = tf.reduce_mean(tf.cast(_gray(image, 1), tf.float64))  # sums of float32 are not exact
    return _blend(tf.floor(tf.cast(mean + 0.5, tf.float32)), tf.cast(image, tf.float32), factor)


def _brightness(image, factor, fill):
    return _blend(0.0, tf.cast(image, tf.float32), factor)


def _sharpness(image, factor, fill):
    """The degenerate image is smoothed, with weights 5/13 and 8 times 1/13, but not at its edge."""
    image = tf.cast(image, tf.float32)
    middle = image[1:-1, 1:-1]
    lines = image[:-2] + image[1:-1] + image[2:]
    total = lines[:, :-2] + lines[:, 1:-1] + lines[:, 2:] + 4 * middle
    change = tf.floor(total / 13 + 0.5) - middle
    return _blend(image + tf.pad(change, [[1, 1], [1, 1], [0, 0]]), image, factor)


# Pillow's affine transformations: where the center of a pixel, (x + 0.5, y + 0.5), comes from is
# calculated in float64, here too. Interpolation is a cubic convolution with a = -1 (not -0.5, as in
# Pillow's resize), truncated. Beyond the image its edge goes on, but what comes from there is filled.

# By column: the weights of four neighbours, as polynomials of t, from the second (t = 0) to the
# third (t = 1).
_CUBIC = np.array([[0, 1, 0, 0], [-1, 0, 1, 0], [2, -2, 1, -1], [-1, 1, -1, 1]], np.float32)
# What is exactly a whole number for Pillow may be a little less in float32: half a thousandth more
# keeps it from being truncated to the one below.
_NUDGE = 0.0005
_STRIP = 32  # rows


def _cubic_weights(t, polynomials=_CUBIC):
    """float32 (places, polynomials) of t, float64 (places,)."""
    t = tf.cast(t, tf.float32)
    powers = tf.stack([tf.ones_like(t), t, t * t, t * t * t], axis=1)
    return tf.matmul(powers, polynomials)


def _to_pixels(values):
    return tf.cast(tf.clip_by_value(values + _NUDGE, 0, 255), tf.uint8)


def _move_rows(image, offsets, fill):
    """Each row comes from so many pixels further right; `offsets` is float64 (height,)."""
    width = tf.shape(image)[1]
    whole = tf.floor(offsets)
    sources = tf.cast(whole, tf.int32)[:, tf.newaxis] + tf.range(-1, width + 2)
    near = tf.gather(image, tf.clip_by_value(sources, 0, width - 1), axis=1, batch_dims=1)
    near = tf.cast(in_rows(near), tf.float32)
    weights = tf.split(_cubic_weights(offsets - whole), 4, axis=1)
    moved = tf.add_n([near[:, 3 * i : 3 * (i + width)] * weights[i] for i in range(4)])

    # -0.5 - offset <= x < width - 0.5 - offset
    first = tf.math.ceil(-0.5 - offsets)[:, tf.newaxis]
    x = tf.repeat(tf.range(tf.cast(width, tf.float64), dtype=tf.float64), 3)
    inside = (x >= first) & (x < first + tf.cast(width, tf.float64))
    return tf.where(inside, _to_pixels(moved), for_rows(fill, image))


def _move_columns(image, offsets, fill):
    turned = tf.transpose(image, [1, 0, 2])
    moved = tf.reshape(_move_rows(turned, offsets, fill), tf.shape(turned))
    return tf.transpose(moved, [1, 0, 2])


def _shear_x(image, factor, fill):
    return _move_rows(image, factor * _centers(tf.shape(image)[0]), fill)


def _shear_y(image, factor, fill):
    return _move_columns(image, factor * _centers(tf.shape(image)[1]), fill)


def _translate_x(image, share, fill):
    height, width = tf.unstack(tf.shape(image)[:2])
    return _move_rows(image, tf.fill([height], share * tf.cast(width, tf.float64)), fill)


def _translate_y(image, share, fill):
    height, width = tf.unstack(tf.shape(image)[:2])
    return _move_columns(image, tf.fill([width], share * tf.cast(height, tf.float64)), fill)


def _centers(size):
    return tf.range(tf.cast(size, tf.float64), dtype=tf.float64) + 0.5


def _rotate(image, degrees, fill):
    """Counter-clockwise around the image's center."""
    height, width = tf.unstack(tf.shape(image)[:2])
    rows, columns = tf.cast(height, tf.float64), tf.cast(width, tf.float64)
    x = (_centers(width) - columns / 2)[tf.newaxis]
    cos, sin = tf.cos(degrees * (math.pi / 180)), tf.sin(degrees * (math.pi / 180))

    # Edge pixels twice more on each side, and beside each pixel the three to the right of it: then
    # four look-ups find a place's sixteen neighbours, and their 48 values stand in one row.
    room = tf.gather(image, tf.clip_by_value(tf.range(-2, height + 2), 0, height - 1), axis=0)
    room = tf.gather(room, tf.clip_by_value(tf.range(-2, width + 2), 0, width - 1), axis=1)
    fours = tf.concat([room[:, i : i + width + 1] for i in range(4)], axis=2)
    fours = tf.reshape(fours, [-1, 12])

    def strip(y):
        from_x = tf.reshape(cos * x - sin * y + columns / 2, [-1])
        from_y = tf.reshape(sin * x + cos * y + rows / 2, [-1])
        inside = (from_x >= 0) & (from_x < columns) & (from_y >= 0) & (from_y < rows)
        left, top = tf.floor(from_x - 0.5), tf.floor(from_y - 0.5)
        by_x = _cubic_weights(from_x - 0.5 - left, _CUBIC.repeat(3, axis=1))
        below = from_y - 0.5 - top
        left = tf.clip_by_value(_whole(left), -1, width - 1) + 1
        top = tf.clip_by_value(_whole(top), -1, height - 1) + 1
        places = top * (width + 1) + left
        lines = [
            tf.cast(tf.gather(fours, places + i * (width + 1)), tf.float32)
            * _cubic_weights(below, _CUBIC[:, i : i + 1].repeat(12, axis=1))
            for i in range(4)
        ]
        turned = tf.matmul(tf.add_n(lines) * by_x, np.tile(np.eye(3, dtype=np.float32), (4, 1)))
        return tf.where(inside[:, tf.newaxis], _to_pixels(turned), fill)

    # One strip after the other: what lies between would not fit into the processor's cache.
    strips = -(-height // _STRIP)
    y = tf.reshape(_centers(strips * _STRIP) - rows / 2, [strips, _STRIP, 1])
    turned = tf.map_fn(strip, y, parallel_iterations=1, fn_output_signature=tf.uint8)
    return tf.reshape(turned, [-1, width, 3])[:height]


def _enhancement(level, sign):
    return 1 + sign * (level * 0.9)


# timm's `_RAND_INCREASING_TRANSFORMS`: for each its argument, by a tenth of the magnitude and the
# sign, and what it does.
OPERATIONS = {
    "AutoContrast": (lambda level, sign: level, _auto_contrast),
    "Equalize": (lambda level, sign: level, _equalize),
    "Invert": (lambda level, sign: level, _invert),
    "Rotate": (lambda level, sign: sign * (level * 30), _rotate),
    "PosterizeIncreasing": (lambda level, sign: 4 - _whole(level * 4), _posterize),
    "SolarizeIncreasing": (lambda level, sign: 256 - _whole(level * 256), _solarize),
    "SolarizeAdd": (lambda level, sign: _whole(level * 110), _solarize_add),
    "ColorIncreasing": (_enhancement, _color),
    "ContrastIncreasing": (_enhancement, _contrast),
    "BrightnessIncreasing": (_enhancement, _brightness),
    "SharpnessIncreasing": (_enhancement, _sharpness),
    "ShearX": (lambda level, sign: sign * (level * 0.3), _shear_x),
    "ShearY": (lambda level, sign: sign * (level * 0.3), _shear_y),
    "TranslateXRel": (lambda level, sign: sign * (level * 0.45), _translate_x),
    "TranslateYRel": (lambda level, sign: sign * (level * 0.45), _translate_y),
}
