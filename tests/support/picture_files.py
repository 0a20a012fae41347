"""A small picture in files of every format and kind, and the pixels that each of them means."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib

import numpy as np
from pictures import encode, on_white
from PIL import Image
from sklearn.datasets import load_sample_image

# uint8 (16, 24, 3): of each orientation its own shape or look.
PHOTO = np.ascontiguousarray(load_sample_image("china.jpg")[100:260:10, 200:440:10])
HEIGHT, WIDTH = PHOTO.shape[:2]
IMAGE = Image.fromarray(PHOTO)
GRAY = np.asarray(IMAGE.convert("L"))
ALPHA = np.linspace(0, 255, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)
RGBA = Image.fromarray(np.dstack([PHOTO, ALPHA]))
ON_WHITE = np.floor(on_white(PHOTO, ALPHA) + 0.5)

# What turns the pixels upright that a file of each orientation has.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@dataclasses.dataclass(frozen=True)
class File:
    """A picture's file.

    Attributes:
        data: Its bytes.
        pixels: (height, width, 3), what it shows, upright and on white; None: it can't be read.
        within: By how many gray levels Pillow itself may differ from `pixels`.
    """

    data: bytes
    pixels: np.ndarray | None
    within: int = 0


def shown(data: bytes) -> np.ndarray:
    """What Pillow shows of a file that has neither transparency nor orientation."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def plain(format: str, image: Image.Image = IMAGE, **options) -> File:
    data = encode(image, format, **options)
    return File(data, shown(data))


def rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(gray)[..., np.newaxis], 3, axis=-1)


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """An Exif block; `order` "<" or ">", `kind` 3 for SHORT and 4 for LONG."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    value = struct.pack(order + {3: "HH", 4: "I"}[kind], *(orientation, 0)[: 5 - kind])
    entries = struct.pack(f"{order}HHHI", 2, 0x0100, 3, 1) + bytes(4)
    entries += struct.pack(f"{order}HHI", 0x0112, kind, 1) + value + bytes(4)
    return b"Exif\0\0" + mark + struct.pack(f"{order}I", 8) + entries


def turned(format: str, **options) -> list[File]:
    """A file for each orientation, and a few whose Exif block is unusual or malformed."""
    base = shown(encode(IMAGE, format, **options))
    files = [
        File(encode(IMAGE, format, exif=exif(number, *form), **options), turn(base))
        for number, turn in UPRIGHT.items()
        for form in (("<", 3), (">", 3), ("<", 4))
    ]
    for broken in (exif(0), exif(9), exif(6)[:20], exif(6)[:-9], b"Exif\0\0MM\0*\xff\xff\xff\xf0"):
        files.append(File(encode(IMAGE, format, exif=broken, **options), base))
    return files


# ---- PNG, byte by byte: Pillow writes only some kinds.

_PLAIN, _COLORED, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6  # color types


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png(values: np.ndarray, bits: int, kind: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of samples (height, width) or (height, width, channels); chunks beside the pixels'."""
    rows = values.reshape(len(values), -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        ones = np.unpackbits(rows.astype(np.uint8)[..., np.newaxis], axis=-1)[..., 8 - bits :]
        packed = np.packbits(ones.reshape(len(rows), -1), axis=-1)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, 0)
    pixels = zlib.compress(np.insert(packed, 0, 0, axis=1).tobytes())
    parts = chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def few_bits(bits: int) -> np.ndarray:
    return GRAY >> (8 - bits)


def grays(transparent: bool) -> list[File]:
    """Gray PNGs of up to 8 bits; with each value that can be declared transparent."""
    files = []
    for bits in (1, 2, 4, 8):
        samples, highest = few_bits(bits), 2**bits - 1
        pixels = rgb(samples * (255 // highest))
        if not transparent:
            files.append(File(png(samples, bits, _PLAIN), pixels))
            continue
        for value in range(highest + 1) if bits < 8 else (GRAY[3, 3],):
            key = chunk(b"tRNS", struct.pack(">H", value))
            shows = np.where((samples == value)[..., np.newaxis], 255, pixels)
            files.append(File(png(samples, bits, _PLAIN, key), shows))
    return files


def palettes(transparent: bool) -> list[File]:
    random, files = np.random.default_rng(0), []
    for bits in (1, 2, 4, 8):
        samples = few_bits(bits)
        colors = random.integers(0, 256, (2**bits, 3), np.uint8)
        table = chunk(b"PLTE", colors.tobytes())
        if not transparent:
            files.append(File(png(samples, bits, _PALETTE, table), colors[samples]))
            continue
        # The last has all colors alike nearly invisible, as TensorFlow has it where nothing is.
        for alphas in (random.integers(0, 256, 2**bits), np.full(2**bits, min(2**bits - 1, 255))):
            key = chunk(b"tRNS", alphas.astype(np.uint8).tobytes())
            shows = np.floor(on_white(colors[samples], alphas[samples]) + 0.5)
            files.append(File(png(samples, bits, _PALETTE, table + key), shows))
    return files


def deep(values: np.ndarray, kind: int, key: bytes = b"") -> bytes:
    return png(values, 16, kind, chunk(b"tRNS", key) if key else b"")


DEEP_GRAY = GRAY.astype(int) * 250 + 77
DEEP = PHOTO.astype(int) * 250 + 77


def eight(values: np.ndarray) -> np.ndarray:
    """Of colors, Pillow keeps the upper eight bits; gray values are rounded."""
    return values >> 8


def deep_key() -> File:
    value = int(DEEP_GRAY[3, 3])
    gray = rgb(np.rint(DEEP_GRAY / 257))
    shows = np.where((value == DEEP_GRAY)[..., np.newaxis], 255, gray)
    return File(deep(DEEP_GRAY, _PLAIN, struct.pack(">H", value)), shows)


def color_key() -> File:
    key = PHOTO[3, 3].astype(">u2").tobytes()
    shows = np.where((PHOTO[3, 3] == PHOTO).all(-1, keepdims=True), 255, PHOTO)
    return File(png(PHOTO, 8, _COLORED, chunk(b"tRNS", key)), shows)


def late_exif() -> File:
    return File(png(PHOTO, 8, _COLORED, after=chunk(b"eXIf", exif(6)[6:])), UPRIGHT[6](PHOTO))


# ---- JPEG

JPEG = encode(IMAGE, "JPEG", quality=95)


def cmyk(transform: int | None) -> File:
    """A JPEG of four inks, with Adobe's marker of 0 (CMYK) or 2 (YCCK), or without."""
    data = encode(IMAGE.convert("CMYK"), "JPEG", quality=95)
    at = data.index(b"Adobe")
    if transform is None:
        data = data[: at - 4] + data[at + 12 :]
    else:
        data = data[: at + 11] + bytes([transform]) + data[at + 12 :]
    return File(data, shown(data))


def misplaced_exif() -> bytes:
    """A JPEG with an Exif block behind its tables, where the standard does not want it."""
    block = exif(6)
    at = JPEG.index(b"\xff\xc0")  # the frame
    return JPEG[:at] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + JPEG[at:]


def divided_exif() -> bytes:
    """A JPEG whose first Exif block has an orientation only if the second is joined to it."""
    block = exif(6)
    halves = block[:14], b"Exif\0\0" + block[14:]
    segments = [b"\xff\xe1" + struct.pack(">H", 2 + len(half)) + half for half in halves]
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


# ---- BMP


def alpha_bmp() -> bytes:
    """32 bits with masks for all four channels, as a version 4 header has them."""
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, 0, 0, 0, 0, 0)
    header += masks + b"BGRs" + bytes(48)
    pixels = np.asarray(RGBA)[::-1, :, [2, 1, 0, 3]].tobytes()
    start = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + pixels


def frames(format: str, **options) -> File:
    """An animation, whose first frame is the photo."""
    more = {"save_all": True, "append_images": [IMAGE.rotate(180)], **options}
    data = encode(IMAGE, format, **more)
    return File(data, shown(data))


def transparent_gif() -> File:
    image = IMAGE.quantize(60)
    clear = image.getpixel((3, 3))
    data = encode(image, "GIF", transparency=clear)
    where = (np.asarray(image) == clear)[..., np.newaxis]
    return File(data, np.where(where, 255, np.asarray(image.convert("RGB"))))


def lossy_alpha(format: str, **options) -> File:
    """The file's own RGB and alpha, laid on white."""
    data = encode(RGBA, format, **options)
    own = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    return File(data, np.floor(on_white(own[..., :3], own[..., 3]) + 0.5))


def files() -> dict[str, list[File]]:
    """The rows of the table in docs/pictures.md, and files for each."""
    quantized = IMAGE.quantize(200)
    tall = encode(IMAGE.resize((WIDTH, 20 * HEIGHT)), "JPEG")
    return {
        "JPEG: RGB": [
            File(JPEG, shown(JPEG)),
            plain("JPEG", subsampling=2),
            plain("JPEG", keep_rgb=True),
            File(JPEG + b"more", shown(JPEG)),
        ],
        "JPEG: gray": [plain("JPEG", IMAGE.convert("L"))],
        "JPEG: progressive": [plain("JPEG", progressive=True)],
        "JPEG: CMYK or YCCK, with Adobe's marker": [cmyk(0), cmyk(2)],
        "JPEG: CMYK, without Adobe's marker": [cmyk(None)],
        "JPEG: several pictures (MPO)": [frames("MPO")],
        "JPEG: EXIF orientation": [
            *turned("JPEG"),
            File(misplaced_exif(), shown(JPEG)),
            File(divided_exif(), shown(JPEG)),
        ],
        "JPEG: cut off": [File(tall[:-cut], None) for cut in (2, len(tall) // 5)],
        "PNG: gray, 1, 2, 4, 8 bits": grays(transparent=False),
        "PNG: gray, 16 bits": [File(deep(DEEP_GRAY, _PLAIN), rgb(np.rint(DEEP_GRAY / 257)))],
        "PNG: RGB, 8, 16 bits": [
            File(encode(IMAGE), PHOTO),
            File(deep(DEEP, _COLORED), eight(DEEP)),
        ],
        "PNG: palette, 1, 2, 4, 8 bits": palettes(transparent=False),
        "PNG: alpha, gray or RGB, 8, 16 bits": [
            File(encode(RGBA), ON_WHITE),
            File(
                png(np.dstack([GRAY, ALPHA]), 8, _GRAY_ALPHA),
                np.floor(on_white(rgb(GRAY), ALPHA) + 0.5),
            ),
            File(
                deep(np.dstack([DEEP, ALPHA.astype(int) * 257]), _RGB_ALPHA),
                np.floor(on_white(eight(DEEP), ALPHA) + 0.5),
            ),
            File(
                deep(np.dstack([DEEP_GRAY, ALPHA.astype(int) * 257]), _GRAY_ALPHA),
                np.floor(on_white(rgb(eight(DEEP_GRAY)), ALPHA) + 0.5),
            ),
        ],
        "PNG: tRNS, palette": palettes(transparent=True),
        "PNG: tRNS, gray, 1, 2, 4, 8 bits": grays(transparent=True),
        "PNG: tRNS, gray, 16 bits": [deep_key()],
        "PNG: tRNS, RGB, 8 bits": [color_key()],
        "PNG: tRNS, RGB, 16 bits": [
            File(deep(DEEP, _COLORED, DEEP[3, 3].astype(">u2").tobytes()), None)
        ],
        "PNG: several frames (APNG)": [frames("PNG")],
        "PNG: EXIF orientation": [*turned("PNG"), late_exif()],
        "PNG: cut off": [File(encode(IMAGE)[:-cut], None) for cut in (12, 100)],
        "GIF": [File(encode(quantized, "GIF"), np.asarray(quantized.convert("RGB")))],
        "GIF: transparent": [transparent_gif()],
        "GIF: several frames": [frames("GIF")],
        "BMP": [
            File(encode(IMAGE, "BMP"), PHOTO),
            File(encode(quantized, "BMP"), np.asarray(quantized.convert("RGB"))),
            File(encode(IMAGE.convert("L"), "BMP"), rgb(GRAY)),
            plain("BMP", IMAGE.convert("1")),
        ],
        "BMP: alpha": [File(alpha_bmp(), ON_WHITE)],
        "WebP": [plain("WEBP"), File(encode(IMAGE, "WEBP", lossless=True), PHOTO)],
        "WebP: alpha": [lossy_alpha("WEBP"), lossy_alpha("WEBP", lossless=True)],
        "WebP: several frames": [frames("WEBP")],
        "WebP: EXIF orientation": turned("WEBP"),
        "TIFF": [
            File(encode(IMAGE, "TIFF"), PHOTO),
            File(encode(IMAGE, "TIFF", compression="tiff_lzw"), PHOTO),
            File(encode(DEEP_GRAY.astype(np.uint16), "TIFF"), rgb(np.rint(DEEP_GRAY / 257))),
        ],
        "TIFF: alpha": [File(encode(RGBA, "TIFF"), ON_WHITE)],
        "TIFF: orientation": [
            File(encode(IMAGE, "TIFF", tiffinfo={0x0112: number}), turn(PHOTO))
            for number, turn in UPRIGHT.items()
        ],
        "AVIF": [plain("AVIF")],
        "AVIF: alpha": [lossy_alpha("AVIF")],
        "AVIF: orientation": [
            File(encode(IMAGE, "AVIF", exif=exif(number)), turn(shown(encode(IMAGE, "AVIF"))))
            for number, turn in UPRIGHT.items()
        ],
        "JPEG 2000": [File(encode(IMAGE, "JPEG2000"), PHOTO)],
        "Netpbm (PPM, PGM, PBM)": [
            File(encode(IMAGE, "PPM"), PHOTO),
            File(encode(IMAGE.convert("L"), "PPM"), rgb(GRAY)),
            plain("PPM", IMAGE.convert("1")),
        ],
        "HEIC": [File(struct.pack(">I", 24) + b"ftypheic" + bytes(200), None)],
    }
