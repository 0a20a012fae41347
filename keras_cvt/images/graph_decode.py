"""From a JPEG or PNG file to upright, opaque pixels, with TensorFlow operations.

For `tf.data` pipelines and for graphs that are exported. Every picture comes out as `load_image` reads
it with Pillow before resizing, bit for bit, but for one gray level in CMYK JPEGs and in 16-bit gray
PNGs. What TensorFlow would decode to other colors is refused: see `decode`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from keras_cvt.images import exif

# A function of (height, width), int32 (), to the box (top, left, height, width), int32 (4,).
Box = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

WHITE = (255, 255, 255)

# Pillow's arithmetic. TensorFlow's default is a faster one, some gray levels away.
_EXACT = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}

_PNG = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE = 0, 2, 3  # color types of PNG

# Markers of JPEG: what an Exif block and Adobe's colors stand in, and the pixels.
_APP1, _APP14, _SCAN = 0xE1, 0xEE, 0xDA

_EXIF = b"Exif\0\0"


def decode(
    data: tf.Tensor,
    background: Sequence[int] = WHITE,
    box: Box | None = None,
    upright: bool = True,
    otherwise: Callable[[], tf.Tensor] | None = None,
) -> tf.Tensor:
    """Decodes a JPEG or PNG file, or the part of the picture in a box: uint8 (height, width, 3).

    Args:
        data: string (), the file.
        background: What transparent pictures are laid on.
        box: Gives the box in the upright picture. Defaults to all of it.
        upright: Whether the orientation of the file's Exif block is followed.
        otherwise: Makes the picture of a file of another format, or of a CMYK JPEG that does not say
            (in Adobe's marker) how its inks are stored. Defaults to an error.
    """
    otherwise = otherwise or (lambda: _refused(data))

    def png() -> tf.Tensor:
        return cut(_decode_png(data, background, upright), box)

    # Within the graph around it, each of its operations would take time for every common file too.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def uncommon() -> tf.Tensor:
        return tf.cond(
            tf.io.is_jpeg(data),
            lambda: _decode_jpeg(data, box, upright, otherwise),
            lambda: tf.cond(_starts(data, _PNG), png, otherwise),
        )

    return tf.cond(_is_common(data), lambda: _decode_common(data, box), uncommon)


def cut(image: tf.Tensor, box: Box | None) -> tf.Tensor:
    """Returns the part of a picture, (height, width, channels), that is in a box."""
    if box is None:
        return image
    shape = tf.shape(image)
    return _part(image, box(shape[0], shape[1]))


def _part(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    top, left, height, width = tf.unstack(box)
    return image[top : top + height, left : left + width]


def to_gray(image: tf.Tensor) -> tf.Tensor:
    """Makes RGB gray with Pillow's weights, in integers: uint8 (..., 1)."""
    parts = tf.cast(image, tf.int32) * tf.constant([19595, 38470, 7471])
    return tf.cast((tf.reduce_sum(parts, axis=-1, keepdims=True) + 0x8000) // 0x10000, tf.uint8)


def _refused(data: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies(
        [tf.debugging.Assert(tf.constant(False), ["TensorFlow decodes no such picture."])]
    ):
        return tf.zeros((1, 1, 3), tf.uint8)


# ---- JPEG


def _is_common(data: tf.Tensor) -> tf.Tensor:
    """Tells whether a file is a JPEG without an Exif block whose end is there: most files.

    They must not take longer for the sake of others: to look through the segments of a JPEG's header
    takes a tenth of the time of decoding.
    """
    return _is_plain(data) & _is_complete(data)


def _is_plain(data: tf.Tensor) -> tf.Tensor:
    """Tells whether a JPEG goes from its JFIF segment to the tables: see `exif.is_plain_jpeg`."""
    start, tables = (tf.strings.substr(data, at, len(text)) == text for at, text in exif.PLAIN_JPEG)
    return start & tables


def _decode_common(data: tf.Tensor, box: Box | None) -> tf.Tensor:
    shape = tf.io.extract_jpeg_shape(data)
    with tf.control_dependencies([tf.debugging.Assert(shape[2] < 4, ["CMYK with JFIF."])]):
        if box is None:
            return tf.io.decode_jpeg(data, **_EXACT)
        return tf.io.decode_and_crop_jpeg(data, box(shape[0], shape[1]), **_EXACT)


def _decode_jpeg(
    data: tf.Tensor, box: Box | None, upright: bool, otherwise: Callable[[], tf.Tensor]
) -> tf.Tensor:
    # Where a file is cut off within its header, libjpeg would write several lines to standard error.
    with tf.control_dependencies([tf.debugging.Assert(_has_scan(data), ["A JPEG of no pixels."])]):
        shape = tf.io.extract_jpeg_shape(data)
    inks = shape[2] == 4
    adobe = tf.cond(
        inks, lambda: _jpeg_segment(data, _APP14, b"Adobe") != b"", lambda: tf.constant(True)
    )
    orientation = tf.constant(1)
    if upright:
        orientation = tf.cond(
            _is_plain(data),
            lambda: tf.constant(1),
            lambda: _exif_orientation(_jpeg_segment(data, _APP1, _EXIF)),
        )

    def whole() -> tf.Tensor:
        return _turned(tf.io.decode_jpeg(data, **_EXACT), orientation)

    def part() -> tf.Tensor:
        if box is None:
            return whole()
        height, width = tf.unstack(tf.where(orientation >= 5, shape[1::-1], shape[:2]))
        wanted = box(height, width)
        # To decode nothing but the part is faster. Where the file is cut off below the part, however,
        # it would succeed: whether a picture is damaged must not depend on where a random box lies.
        return tf.cond(
            (orientation == 1) & _is_complete(data),
            lambda: tf.io.decode_and_crop_jpeg(data, wanted, **_EXACT),
            lambda: _part(whole(), wanted),
        )

    return tf.cond(adobe, part, otherwise)


def _has_scan(data: tf.Tensor) -> tf.Tensor:
    """Tells whether a JPEG goes on behind its header, as far as can be said without reading it."""
    scan = bytes([0xFF, _SCAN])
    return _is_complete(data) | (tf.size(tf.strings.split(data, scan, maxsplit=1)) > 1)


def _is_complete(data: tf.Tensor) -> tf.Tensor:
    return tf.strings.substr(data, -2, 2) == b"\xff\xd9"


def _jpeg_segment(data: tf.Tensor, marker: int, signature: bytes) -> tf.Tensor:
    """Returns the first segment of a kind in a JPEG's header that begins so; "" if there is none."""

    def kind(at: tf.Tensor) -> tf.Tensor:
        return _number(data, at + 1, 1)

    def not_found(at: tf.Tensor, segment: tf.Tensor) -> tf.Tensor:
        return (kind(at) != _SCAN) & (segment == b"")

    def next_one(at: tf.Tensor, segment: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Bytes 0xff may fill the space before a marker.
        filled = kind(at) == 0xFF
        size = tf.where(filled, 1, 2 + _number(data, at + 2, 2))
        segment = tf.strings.substr(data, at + 4, tf.maximum(size - 4, 0))
        wanted = ~filled & (kind(at) == marker) & _starts(segment, signature)
        return at + size, tf.where(wanted, segment, b"")

    return tf.while_loop(not_found, next_one, (tf.constant(2), tf.constant(b"")))[1]


# ---- PNG


def _decode_png(data: tf.Tensor, background: Sequence[int], upright: bool) -> tf.Tensor:
    bits, kind = (_number(data, at, 1) for at in (24, 25))
    # Pillow does not find it: refused there, it is refused here.
    deep_key = tf.cond(
        (bits == 16) & (kind == _RGB), lambda: _has_chunk(data, b"tRNS"), lambda: tf.constant(False)
    )
    with tf.control_dependencies([tf.debugging.Assert(~deep_key, ["A 16-bit transparent color."])]):
        picture = tf.cast(tf.io.decode_png(data, channels=4), tf.int32)
    alpha = picture[..., 3:]
    # TensorFlow gives opaque pictures of fewer than 8 bits the alpha 1, 3 or 15.
    opaque = tf.cond(
        (bits < 8) & ((kind == _GRAY) | (kind == _PALETTE)),
        lambda: ~_has_chunk(data, b"tRNS"),
        lambda: tf.constant(False),
    )
    alpha = tf.where(opaque, 255, alpha)
    behind = tf.constant(background, tf.int32) * (255 - alpha)
    picture = tf.cast((picture[..., :3] * alpha + behind + 127) // 255, tf.uint8)
    if not upright:
        return picture
    return _turned(picture, _exif_orientation(_chunk(data, b"eXIf")))


def _has_chunk(data: tf.Tensor, name: bytes) -> tf.Tensor:
    return tf.strings.length(_chunk(data, name)) > 0


def _chunk(data: tf.Tensor, name: bytes) -> tf.Tensor:
    """Returns the first chunk of a PNG that is called so; "" if there is none, or it is empty."""

    def search() -> tf.Tensor:
        def not_found(at: tf.Tensor, chunk: tf.Tensor) -> tf.Tensor:
            return (at + 8 <= tf.strings.length(data)) & (chunk == b"")

        def next_one(at: tf.Tensor, chunk: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            size = tf.maximum(_number(data, at, 4), 0)  # below 0: more than a PNG may say
            found = tf.strings.substr(data, at + 4, 4) == name
            chunk = tf.strings.substr(data, at + 8, tf.where(found, size, 0))
            return at + 12 + size, chunk

        return tf.while_loop(not_found, next_one, (tf.constant(8), tf.constant(b"")))[1]

    # Among the bytes of pixels, the name may stand by chance; without it, there is nothing to find.
    named = tf.strings.regex_full_match(data, rf"\C*{name.decode()}\C*")
    return tf.cond(named, search, lambda: tf.constant(b""))


# ---- Exif


def _exif_orientation(block: tf.Tensor) -> tf.Tensor:
    """Does what `keras_cvt.images.exif.orientation` does: int32 (), 1 to 8."""

    def read() -> tf.Tensor:
        start = tf.where(_starts(block, _EXIF), len(_EXIF), 0)
        tiff = tf.strings.substr(block, start, tf.strings.length(block)) + bytes(12)
        length = tf.strings.length(tiff)
        order = tf.strings.substr(tiff, 0, 4)
        little = order == b"II*\0"

        def number(at: tf.Tensor | int, size: int) -> tf.Tensor:
            place = tf.minimum(tf.cast(at, tf.int64), tf.cast(length - size, tf.int64))
            return values(_bytes(tiff, tf.cast(place, tf.int32), size))

        def values(raw: tf.Tensor) -> tf.Tensor:
            """Reads integers in the block's byte order: uint8 (..., bytes) to int64 (...)."""
            raw = tf.where(little, raw[..., ::-1], raw)
            return tf.reduce_sum(tf.cast(raw, tf.int64) * _powers(raw.shape[-1]), axis=-1)

        begin = tf.cast(tf.minimum(number(4, 4), tf.cast(length - 2, tf.int64)), tf.int32)
        count = tf.minimum(tf.cast(number(begin, 2), tf.int32), (length - begin - 2) // 12)
        entries = tf.io.decode_raw(tf.strings.substr(tiff, begin + 2, 12 * count), tf.uint8)
        entries = tf.reshape(entries, (-1, 12))
        tags, types = values(entries[:, :2]), values(entries[:, 2:4])
        short, long = types == exif.SHORT, types == exif.LONG
        found = tf.where(short, values(entries[:, 8:10]), values(entries[:, 8:]))
        found = tf.boolean_mask(found, (tags == exif.TAG) & (short | long))
        found = tf.concat([found[:1], [1]], axis=0)[0]  # the first, if there is one
        sound = (little | (order == b"MM\0*")) & (found >= 1) & (found <= 8)
        return tf.cast(tf.where(sound, found, 1), tf.int32)

    return tf.cond(block == b"", lambda: tf.constant(1), read)


def _turned(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns a picture upright."""

    def turned() -> tf.Tensor:
        lying = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
        mirrored = tf.reduce_any(orientation == [2, 3, 6, 7])
        return tf.reverse(lying, tf.boolean_mask([0, 1], tf.stack([upside_down, mirrored])))

    return tf.cond(orientation == 1, lambda: image, turned)


def _starts(text: tf.Tensor, prefix: bytes) -> tf.Tensor:
    return tf.strings.substr(text, 0, len(prefix)) == prefix


def _number(text: tf.Tensor, at: tf.Tensor | int, size: int) -> tf.Tensor:
    """Reads an unsigned big-endian integer of so many bytes: int32 ()."""
    values = tf.cast(_bytes(text, at, size), tf.int64)
    return tf.cast(tf.reduce_sum(values * _powers(size)), tf.int32)


def _bytes(text: tf.Tensor, at: tf.Tensor | int, size: int) -> tf.Tensor:
    raw = tf.io.decode_raw(tf.strings.substr(text, at, size), tf.uint8)
    return tf.ensure_shape(raw, (size,))


def _powers(size: int) -> list[int]:
    return [256**place for place in reversed(range(size))]
