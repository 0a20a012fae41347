"""From pixels to the input of a model, with TensorFlow operations: see `Preprocessing`.

For `tf.data` pipelines and for graphs that are exported: TensorFlow is all they need. Against
`keras_cvt.images.transform`, which does the same with Pillow, up to 7 in 10,000 values of a photo
differ after bicubic resizing, by one gray level. `keras_cvt.images.graph_decode` reads files for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from keras_cvt.images.preprocessing import Preprocessing


def resize_and_crop(images: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Resizes pictures of one size, and cuts what the model sees from their center.

    Only what the crop keeps is computed, so that a long and narrow picture needs no more memory than
    others. Like Pillow, it goes over the width first and then over the height, and rounds after each.

    Args:
        images: uint8 (batch, height, width, channels), of any size but not empty.

    Returns:
        uint8 (batch, *image_size, channels).
    """
    kept_height, kept_width = preprocessing.image_size
    batch, height, width, channels = tf.unstack(tf.shape(images))
    full = preprocessing.full_size(
        tf.cast(height, tf.int64), tf.cast(width, tf.int64), maximum=tf.maximum
    )
    top, left = preprocessing.crop_start(*full)

    def resized() -> tf.Tensor:
        # TensorFlow prepares a product for each new shape, which takes longer than the product: so
        # there must be few lengths of rows.
        padded = -(-height // 32) * 32
        columns = tf.pad(images, [[0, 0], [0, padded - height], [0, 0], [0, 0]])
        columns = tf.reshape(tf.transpose(columns, [2, 0, 1, 3]), [width, -1])
        columns = _resampled(columns, full[1], left, kept_width, preprocessing.interpolation)
        columns = tf.reshape(columns, [kept_width, batch, padded, channels])[:, :, :height]
        rows = tf.reshape(tf.transpose(columns, [2, 1, 0, 3]), [height, -1])
        rows = _resampled(rows, full[0], top, kept_height, preprocessing.interpolation)
        rows = tf.reshape(rows, [kept_height, batch, kept_width, channels])
        return tf.transpose(rows, [1, 0, 2, 3])

    def cut() -> tf.Tensor:
        return images[:, top : top + kept_height, left : left + kept_width]

    # Of small pictures that have the right size already, resizing takes longer than reading.
    same = tf.reduce_all(tf.equal(tf.cast(tf.stack(full), tf.int32), tf.stack([height, width])))
    result = tf.cond(same, cut, resized)
    return tf.ensure_shape(result, (images.shape[0], kept_height, kept_width, images.shape[3]))


def _resampled(
    lines: tf.Tensor, full: tf.Tensor | int, start: tf.Tensor | int, kept: int, interpolation: str
) -> tf.Tensor:
    """Scales lines of pixels to `full` lines, of which only those from `start` on are computed.

    Args:
        lines: uint8 (lines, values), the rows or the columns of pictures.
        kept: How many lines are computed.

    Returns:
        uint8 (kept, values).
    """
    places, weights = _weights(tf.shape(lines)[0], full, start, kept, interpolation)
    # Most weights of a product over all lines would be zero: eight lines of the result have their
    # own few.
    result = tf.matmul(weights, tf.cast(tf.gather(lines, places), tf.float32))
    result = tf.reshape(result, [-1, tf.shape(lines)[1]])[:kept]
    # Pillow rounds a half up. Casting truncates.
    return tf.cast(tf.clip_by_value(result + 0.5, 0, 255.5), tf.uint8)


def _weights(
    given: tf.Tensor, full: tf.Tensor | int, start: tf.Tensor | int, kept: int, interpolation: str
) -> tuple[tf.Tensor, tf.Tensor]:
    """Which lines each eight lines of the result are made of, and with what weights.

    Computed in float64, as Pillow does, since thousands of pixels leave float32 too few digits.

    Returns:
        int32 (eights, length) and float32 (eights, 8, length). The last eight may be too many.
    """
    radius, kernel = KERNELS[interpolation]
    scale = tf.cast(given, tf.float64) / tf.cast(full, tf.float64)
    stretch = tf.maximum(scale, 1)
    length = tf.cast(tf.math.ceil(7 * scale + 2 * radius * stretch), tf.int32) + 1
    length = tf.minimum(length, given)
    numbers = tf.cast(start, tf.int64) + tf.range(-(-kept // 8) * 8, dtype=tf.int64)
    centers = (tf.cast(numbers, tf.float64) + 0.5) * scale
    centers = tf.reshape(tf.minimum(centers, tf.cast(given, tf.float64)), [-1, 8, 1])
    first = tf.cast(tf.floor(centers[:, 0] - radius * stretch), tf.int32)
    places = tf.clip_by_value(first, 0, given - length) + tf.range(length)
    distances = (tf.cast(places, tf.float64)[:, tf.newaxis] + 0.5 - centers) / stretch
    weights = kernel(tf.abs(distances))
    return places, tf.cast(weights / tf.reduce_sum(weights, axis=2, keepdims=True), tf.float32)


def _bicubic(d: tf.Tensor) -> tf.Tensor:
    """Cubic convolution with a = -0.5."""
    near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
    return tf.where(d < 1, near, tf.where(d < 2, far, tf.zeros_like(d)))


# For each interpolation how far a pixel reaches, and its weight by distance.
KERNELS = {"bicubic": (2, _bicubic), "bilinear": (1, lambda d: tf.maximum(1 - d, 0))}


def normalize(images: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """Scales pixels to float32 `(pixels / 255 - mean) / std`.

    In one multiplication and one subtraction, so that the last bit may differ from
    `keras_cvt.preprocess_input`.

    Args:
        images: (..., width, channels), at least three axes, uint8 or float in [0, 255].
        mean, std: Of the channels, for values in [0, 1].
    """
    # TensorFlow broadcasts over a last axis of three channels twenty times slower than over a long
    # one: so over whole rows.
    shape = tf.shape(images)
    width = shape[-2]
    scale = tf.constant([1 / (255 * s) for s in std], tf.float32)
    shift = tf.constant([m / s for m, s in zip(mean, std, strict=True)], tf.float32)
    rows = tf.cast(tf.reshape(images, [-1, width * shape[-1]]), tf.float32)
    rows = rows * tf.tile(scale, [width]) - tf.tile(shift, [width])
    return tf.reshape(rows, shape)
