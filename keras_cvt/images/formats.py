"""The picture formats that are read, and those that are refused with a reason.

`load_image`, `keras-cvt predict`, training, evaluation and `training.prepare` read all of `FORMATS`.
What a TensorFlow graph alone decodes (an exported `serve_bytes`, a tf.data service) is less: see
`Format.in_graph`. `docs/pictures.md` has the whole table.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Format:
    """A picture format.

    Attributes:
        name: As people call it.
        suffixes: What the names of its files end in, in lower case.
        in_graph: Whether TensorFlow's operations decode it as Pillow does. Other formats need Pillow,
            and so Python, in the process that reads them.
    """

    name: str
    suffixes: tuple[str, ...]
    in_graph: bool = False


FORMATS = (
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), in_graph=True),
    Format("PNG", (".png", ".apng"), in_graph=True),
    Format("GIF", (".gif",)),
    Format("BMP", (".bmp", ".dib")),
    Format("WebP", (".webp",)),
    Format("TIFF", (".tif", ".tiff")),
    Format("AVIF", (".avif",)),
    Format("JPEG 2000", (".jp2", ".j2k")),
    Format("Netpbm", (".ppm", ".pgm", ".pbm", ".pnm")),
)

SUFFIXES = tuple(suffix for format in FORMATS for suffix in format.suffixes)
GRAPH_SUFFIXES = tuple(s for format in FORMATS if format.in_graph for s in format.suffixes)

_HEIC = "HEIC pictures can't be decoded; convert them to JPEG or PNG"
_AVIF = "AVIF pictures need Pillow 11.3 or newer"

# How the files of common formats begin.
_BEGINNINGS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF"}

# Suffix of pictures that nothing here decodes -> why, which completes "NAME: ".
REFUSED = dict.fromkeys((".heic", ".heif", ".hif"), _HEIC)


def why_refused(data: bytes) -> str:
    """Says why a file that Pillow does not know can't be read; completes "NAME: "."""
    if data[4:8] == b"ftyp":  # the container of both: its brand says what is inside
        if data[8:12] in (b"avif", b"avis"):
            return _AVIF
        if data[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
            return _HEIC
    for beginning, name in _BEGINNINGS.items():
        if data.startswith(beginning):
            return f"a damaged {name}: what stands before its pixels can't be read"
    return "not an image, or of a format that is not supported"
