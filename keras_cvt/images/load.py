"""Reading a picture from a file, a URL, bytes or an array.

`load_image` repeats the evaluation transforms of the official code (microsoft/CvT,
lib/dataset/transformas/build.py), which are torchvision's `Resize` and `CenterCrop` on Pillow
images. Everything here works offline, except for reading an image from an http(s) URL.
"""

from __future__ import annotations

import functools
import http.client
import io
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from keras_cvt.images import exif
from keras_cvt.images.formats import why_refused
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.images.transform import array_to_image, resize_and_crop, to_rgb

if TYPE_CHECKING:
    import PIL.Image

TIMEOUT = 10.0  # seconds
MAX_BYTES = 64 * 2**20

# At least two letters, so that the drive of a Windows path is not taken for a scheme.
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_DATA_URL = re.compile(r"data:[\w.+/-]*[;,]", re.IGNORECASE)


class ImageError(ValueError):
    """An image cannot be read. The message names the file or URL and says why."""


def load_image(
    source: str | os.PathLike | bytes | BinaryIO | np.ndarray | PIL.Image.Image,
    image_size: int | tuple[int, int] = 224,
    crop: float | str | None = "official",
    *,
    timeout: float = TIMEOUT,
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """Reads one image and brings it to the model's input size, as the official evaluation does.

    The picture is turned upright (EXIF orientation), made 8-bit RGB, resized with Pillow's bicubic
    filter, and cropped. What becomes of the kinds of pictures:

    - gray, 1-bit, palette, CMYK (in Adobe's inverted form): converted to RGB by Pillow; color
      profiles are ignored. `docs/pictures.md` has all formats.
    - transparent: laid on white. The official loader drops the alpha channel, which uncovers
      whatever color happens to lie below it. Opaque pictures come out the same either way.
    - 16-bit gray: scaled, 65535 becomes 255. Pillow alone would clip at 255.
    - animated or with several pages: the first frame (of a PIL image, the current one).

    The official loader ignores the EXIF orientation; for files without one, nothing differs.

    Args:
        source: a path; an `http://`, `https://` or `file://` URL; the bytes of an image file; a
            binary file object, read from its current position to its end and left open; a PIL
            image; or an array of shape `(H, W)`, `(H, W, 1)`, `(H, W, 3)` RGB or `(H, W, 4)` RGBA
            with uint16 values in [0, 65535], not all below 256, or values in [0, 255] of any
            other integer or floating dtype (rounded to integers). EPS files are refused, since
            Pillow hands them to Ghostscript, which executes them.
        image_size: pixels of the result, one number for a square or `(height, width)`.
        crop: which part of the picture is seen. A number from 0.01 to 1: the picture is resized,
            keeping its proportions, until it just covers `int(image_size / crop)` pixels, and
            `image_size` is cut from its center; sizes and offsets are rounded as torchvision
            (0.9 and later) does it. `None`: the whole picture is resized to `image_size`,
            whatever its proportions. `"official"`: 0.875 (short side 256 for 224) where the short
            side of `image_size` is below 384, `None` from 384 on.
        timeout: seconds an http(s) URL may take, for each step of connecting and for all of
            reading.
        max_bytes: bytes an http(s) URL may deliver.

    Returns:
        uint8 array of shape `(height, width, 3)`, RGB, values 0 to 255, as `preprocess_input`
        takes them. One image: stack several, or add an axis, for a batch.

    Raises:
        FileNotFoundError: there is no such file.
        ImageError: (a ValueError) the file or URL cannot be read, is too large, is empty, broken,
            or not an image, has more pixels than Pillow's limit against decompression bombs
            (twice `PIL.Image.MAX_IMAGE_PIXELS`), or the array is not as described above.
        ValueError: `image_size`, `crop` or the scheme of the URL.
        TypeError: `source` is none of the above.
        ImportError: Pillow is not installed.
    """
    return load(source, Preprocessing(image_size, crop), timeout=timeout, max_bytes=max_bytes)


def load(
    source: Any,
    preprocessing: Preprocessing,
    *,
    timeout: float = TIMEOUT,
    max_bytes: int = MAX_BYTES,
) -> np.ndarray:
    """Reads one image as `load_image` does, in the channels of `preprocessing`.

    Returns:
        uint8 array of shape `(height, width, channels)`. One channel is gray, and made so before
        anything else.
    """

    def finish(image: PIL.Image.Image) -> PIL.Image.Image:
        image = to_rgb(image, preprocessing.background)
        return resize_and_crop(
            image if preprocessing.channels == 3 else image.convert("L"), preprocessing
        )

    pixels = _load(source, finish, timeout, max_bytes)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def load_grey(path: str | os.PathLike) -> np.ndarray:
    """Reads a picture as `load_image` does, but gray and of its own size: uint8 (height, width)."""
    return _load(path, lambda image: to_rgb(image).convert("L"))


def decode(data: bytes, upright: bool = True) -> np.ndarray:
    """Decodes the file of a picture as `load_image` does before it resizes: uint8 (height, width, 3).

    Args:
        data: The file.
        upright: Whether the EXIF orientation is followed.

    Raises:
        ImageError: If it is not a picture that can be read. The message does not name it.
    """
    return _finished(lambda: _opened(data), lambda image: to_rgb(image, upright=upright))


def _load(
    source: Any, finish: Callable, timeout: float = TIMEOUT, max_bytes: int = MAX_BYTES
) -> np.ndarray:
    """Returns what `finish` makes of the picture. Raises what `load_image` does."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("load_image needs Pillow: pip install pillow") from error
    if isinstance(source, np.ndarray):
        name = f"array of shape {source.shape} and dtype {source.dtype}"
        opened = functools.partial(array_to_image, source)
    elif isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or f"PIL image of mode {source.mode}"
        opened = lambda: source  # noqa: E731
    else:
        name, data = _read(source, timeout, max_bytes)
        opened = functools.partial(_opened, data)
    try:
        return _finished(opened, finish)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error.__cause__


def _opened(data: bytes) -> PIL.Image.Image:
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ImageError("empty, 0 bytes")
    Image.init()
    try:
        image = Image.open(io.BytesIO(data), formats=[f for f in Image.ID if f != "EPS"])
    except UnidentifiedImageError as error:
        raise ImageError(why_refused(data)) from error
    if image.format in ("JPEG", "MPO"):
        image.info["exif"] = exif.of_jpeg(data)
    if image.format == "PNG" and b"IEND" not in data:
        raise ImageError("truncated: its last chunk, IEND, is missing")
    return image


def _finished(opened: Callable, finish: Callable) -> np.ndarray:
    """Returns what `finish` makes of what `opened` opens.

    Raises:
        ImageError: If that can't be done. The message does not name the picture.
    """
    try:
        return np.array(finish(opened()))
    except ImageError:
        raise
    # On a malformed file Pillow raises almost anything: OSError, SyntaxError, struct.error,
    # ValueError, DecompressionBombError (an Exception) ...
    except Exception as error:
        raise ImageError(str(error) or type(error).__name__) from error


def _read(source: Any, timeout: float, max_bytes: int) -> tuple[str, bytes]:
    """Returns what to call the source in an error message, and its content."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "the given bytes", bytes(source)
    if hasattr(source, "read"):
        name = str(getattr(source, "name", f"the given {type(source).__name__}"))
        try:
            data = source.read()
        except (OSError, ValueError) as error:
            raise ImageError(f"{name}: cannot be read: {error}") from error
        if not isinstance(data, bytes):
            raise ImageError(f"{name}: the file is open in text mode, not in binary mode ('rb')")
        return name, data
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(
            "load_image takes a path, a URL, bytes, a binary file object, a PIL image or a NumPy "
            f"array. Received: {type(source).__name__}"
        )
    name = path = os.fspath(source)
    if _DATA_URL.match(str(name)):
        raise ValueError(
            f"{name[:30]}...: a data: URL; decode it and give the bytes. A URL must begin with "
            "http://, https:// or file:///"
        )
    if isinstance(source, str) and (url := _URL.match(source)):
        scheme = url[1].lower()
        if scheme in ("http", "https"):
            return name, _download(source, timeout, max_bytes)
        parts = urllib.parse.urlsplit(source)
        if scheme != "file" or parts.netloc not in ("", "localhost"):
            raise ValueError(f"{name}: a URL must begin with http://, https:// or file:///")
        path = urllib.request.url2pathname(parts.path)
    try:
        with open(path, "rb") as file:
            return name, file.read()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"{name}: cannot be read: {error}") from error


def _download(url: str, timeout: float, max_bytes: int) -> bytes:
    data = bytearray()
    try:
        # Some servers turn away the default agent of urllib.
        request = urllib.request.Request(url, headers={"User-Agent": "keras_cvt"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            expected = response.length  # None where the server does not say
            deadline = time.monotonic() + timeout
            too_large = expected is not None and expected > max_bytes
            # urllib's timeout is for each read of the socket. read1 returns after one of them, so
            # that a server which sends a byte now and then does not hold us for ever.
            while not too_large and (chunk := response.read1(2**16)):
                data += chunk
                too_large = len(data) > max_bytes
                if time.monotonic() > deadline:
                    raise TimeoutError
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"not complete within {timeout} s"
        raise ImageError(f"{url}: cannot be downloaded: {reason!s}") from error
    if too_large:
        raise ImageError(f"{url}: larger than max_bytes={max_bytes}")
    if expected is not None and len(data) < expected:
        raise ImageError(f"{url}: the connection ended after {len(data)} of {expected} bytes")
    return bytes(data)
