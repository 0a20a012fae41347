"""The orientation that an Exif block gives a picture.

`keras_cvt.images.graph_decode` reads it the same way inside a TensorFlow graph.
"""

from __future__ import annotations

TAG = 0x0112  # Orientation
SHORT, LONG = 3, 4  # the types that its value may have

_APP1, _SCAN = 0xE1, 0xDA  # markers of a JPEG: what an Exif block stands in, and the pixels

# Where most JPEGs have these bytes: the start and a JFIF segment of the usual length; the first table.
PLAIN_JPEG = ((0, b"\xff\xd8\xff\xe0\0\x10"), (20, b"\xff\xdb"))


def is_plain_jpeg(data: bytes) -> bool:
    """Tells whether a file is a JPEG that goes from its JFIF segment straight to the tables.

    An Exif block stands before the tables, so that such a file has none. One that stands elsewhere is
    not looked for: that would slow down the reading of all JPEGs.
    """
    return all(data[at : at + len(text)] == text for at, text in PLAIN_JPEG)


def of_jpeg(data: bytes) -> bytes:
    """Returns the first Exif block in a JPEG's header; b"" if there is none.

    Pillow joins all of them to one, and so may find another orientation.
    """
    at = 2
    while not is_plain_jpeg(data) and at + 4 <= len(data) and data[at + 1] != _SCAN:
        if data[at + 1] == 0xFF:  # fills the space before a marker
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == _APP1 and data[at + 4 : end].startswith(b"Exif\0\0"):
            return data[at + 4 : end]
        at = end
    return b""


def orientation(block: bytes) -> int:
    """Returns the orientation in an Exif block, 1 to 8. 1, upright, also where there is none.

    A malformed block says nothing about the picture, which may well be good: it counts as upright.

    Args:
        block: The bytes of a JPEG's APP1 segment, a PNG's eXIf chunk or a WebP's EXIF chunk.
    """
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(block[:4])
    if order is None:
        return 1
    block += bytes(12)  # what is missing at the end reads as zero

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[at : at + size], order)

    begin = number(4, 4)
    for entry in range(begin + 2, begin + 2 + 12 * number(begin, 2), 12):
        if entry + 12 > len(block):
            break
        kind = number(entry + 2, 2)
        if number(entry, 2) == TAG and kind in (SHORT, LONG):
            value = number(entry + 8, 2 if kind == SHORT else 4)
            return value if 1 <= value <= 8 else 1
    return 1
