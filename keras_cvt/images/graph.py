"""From a picture to the input of a model, with TensorFlow operations: see `Preprocessing`.

For `tf.data` pipelines and for graphs that are exported: TensorFlow is all they need. Against
`keras_cvt.images.transform`, which does the same with Pillow:

- Decoded bits of JPEG and PNG are equal, except that 16-bit gray PNGs may differ by one gray level.
  CMYK JPEGs, whose colors no standard defines, differ by up to 8.
- After bicubic resizing, up to 7 in 10,000 values of a photo differ, by one gray level. Pillow 13
  resizes some pictures over the height first, such as portraits that are squeezed into a square
  without a crop. Here the width always comes first, as in Pillow up to 12; then one value in six
  differs, by one or two gray levels as a rule, but beside hard edges by up to 19.

A JPEG's EXIF orientation is not followed, and formats other than JPEG and PNG are not decoded on
white; `decode` is where both belong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_cvt.images.preprocessing import Preprocessing

# A function of (height, width), int32 (), to the box (top, left, height, width), int32 (4,).
Box = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def decode(data: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Decodes a JPEG or PNG file, opaque: uint8 (height, width, channels).

    Args:
        data: string (), the file.
        preprocessing: Its channels (3, or 1 for gray) and background are followed.
    """
    picture = tf.cond(
        tf.io.is_jpeg(data),
        lambda: decode_jpeg(data),
        lambda: decode_png(data, preprocessing.background),
    )
    return to_gray(picture) if preprocessing.channels == 1 else picture


def decode_jpeg(data: tf.Tensor, box: Box | None = None) -> tf.Tensor:
    """Decodes a JPEG, or the part of it in a box: uint8 (height, width, 3)."""
    # Pillow's arithmetic. TensorFlow's default is a faster one, some gray levels away.
    exact = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}
    if box is None:
        return tf.io.decode_jpeg(data, **exact)
    shape = tf.io.extract_jpeg_shape(data)
    return tf.io.decode_and_crop_jpeg(data, box(shape[0], shape[1]), **exact)


def decode_png(data: tf.Tensor, background: Sequence[int] = (255, 255, 255)) -> tf.Tensor:
    """Decodes a PNG and lays it on a background: uint8 (height, width, 3)."""
    picture = tf.cast(tf.io.decode_png(data, channels=4), tf.int32)
    alpha = picture[..., 3:]
    # TensorFlow gives opaque grays of fewer than 8 bits the alpha 1, 3 or 15.
    bits, kind = (tf.io.decode_raw(tf.strings.substr(data, at, 1), tf.uint8)[0] for at in (24, 25))
    bits = tf.cast(bits, tf.int32)
    opaque = (kind == 0) & (bits < 8) & (tf.reduce_max(alpha) == 2**bits - 1)
    alpha = tf.where(opaque, 255, alpha)
    behind = tf.constant(background, tf.int32) * (255 - alpha)
    return tf.cast((picture[..., :3] * alpha + behind + 127) // 255, tf.uint8)


def to_gray(image: tf.Tensor) -> tf.Tensor:
    """Makes RGB gray with Pillow's weights, in integers: uint8 (..., 1)."""
    parts = tf.cast(image, tf.int32) * tf.constant([19595, 38470, 7471])
    return tf.cast((tf.reduce_sum(parts, axis=-1, keepdims=True) + 0x8000) // 0x10000, tf.uint8)


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

    # TensorFlow prepares a product for each new shape, which takes longer than the product: so there
    # must be few lengths of rows.
    padded = -(-height // 32) * 32
    images = tf.pad(images, [[0, 0], [0, padded - height], [0, 0], [0, 0]])
    columns = tf.reshape(tf.transpose(images, [2, 0, 1, 3]), [width, -1])
    columns = _resampled(columns, full[1], left, kept_width, preprocessing.interpolation)
    columns = tf.reshape(columns, [kept_width, batch, padded, channels])[:, :, :height]
    rows = tf.reshape(tf.transpose(columns, [2, 1, 0, 3]), [height, -1])
    rows = _resampled(rows, full[0], top, kept_height, preprocessing.interpolation)
    rows = tf.reshape(rows, [kept_height, batch, kept_width, channels])
    result = tf.transpose(rows, [1, 0, 2, 3])
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
