"""ImageNet-1k around the model: a picture in, the names of what it shows out.

    images = np.stack([load_image("cat.jpg")])
    decode_predictions(model.predict(preprocess_input(images)))

`load_image` repeats the evaluation transforms of the official code (microsoft/CvT,
lib/dataset/transformas/build.py), which are torchvision's `Resize` and `CenterCrop` on Pillow
images. Everything here works offline, except for reading an image from an http(s) URL.
"""

import functools
import http.client
import importlib.resources
import io
import numbers
import operator
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import keras
import numpy as np

if TYPE_CHECKING:
    import PIL.Image

# Mean and standard deviation of the channels R, G, B of ImageNet, for values in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# EXIF orientation -> the Pillow transpose that turns the picture upright. ImageOps.exif_transpose
# also writes the EXIF block anew, and so fails on a good picture with another, malformed tag.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

# At least two letters, so that the drive of a Windows path is not taken for a scheme.
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)


class ImageError(ValueError):
    """An image cannot be read. The message names the file or URL and says why."""


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Normalizes RGB values the way the published CvT weights expect: `(x / 255 - MEAN) / STD`.

    Works on NumPy arrays, on tensors of the Keras backend, and on symbolic tensors while a
    functional model is built; with the TensorFlow backend also within `tf.data.Dataset.map`.

    Args:
        x: images of shape `(..., 3)`, RGB, values in [0, 255], any real dtype. Not modified.
        data_format: `None` or `"channels_last"`. CvT models take their channels last whatever
            `keras.config.image_data_format()` says, so `None` does not look there, and
            `"channels_first"` is refused.

    Returns:
        float32 of the shape of `x`, about -2.12 to 2.64: a NumPy array for an array or a nested
        list, a tensor for a tensor.

    Raises:
        ValueError: the last axis is not 3 long, or another `data_format`.
    """
    if data_format not in (None, "channels_last"):
        raise ValueError(
            "preprocess_input takes images of shape (..., 3), data_format=None or "
            f"'channels_last'. Received: data_format={data_format!r}"
        )
    is_tensor = keras.ops.is_tensor(x) or isinstance(x, keras.KerasTensor)
    if not is_tensor:
        x = np.asarray(x)
    # In a tf.data pipeline the channels may not be known yet: None.
    if x.shape[-1] not in (3, None):
        raise ValueError(
            f"preprocess_input takes RGB images of shape (..., 3). Received: shape={x.shape}"
        )
    mean, std = np.array(MEAN, "float32"), np.array(STD, "float32")
    if is_tensor:
        x = keras.ops.divide(keras.ops.cast(x, "float32"), 255.0)
        return keras.ops.divide(keras.ops.subtract(x, mean), std)
    return (x.astype("float32") / np.float32(255.0) - mean) / std


def load_image(
    source: "str | os.PathLike | bytes | BinaryIO | np.ndarray | PIL.Image.Image",
    image_size: int | tuple[int, int] = 224,
    crop: float | str | None = "official",
    *,
    timeout: float = 10.0,
    max_bytes: int = 64 * 2**20,
) -> np.ndarray:
    """Reads one image and brings it to the model's input size, as the official evaluation does.

    The picture is turned upright (EXIF orientation), made 8-bit RGB, resized with Pillow's bicubic
    filter, and cropped. What becomes of the kinds of pictures:

    - grey, 1-bit, palette, CMYK (Adobe's inverted form too): converted to RGB by Pillow; colour
      profiles are ignored.
    - transparent: laid on white. The official loader drops the alpha channel, which uncovers
      whatever colour happens to lie below it. Opaque pictures come out the same either way.
    - 16-bit grey: scaled, 65535 becomes 255. Pillow alone would clip at 255.
    - animated or with several pages: the first frame (of a PIL image, the current one).

    The official loader ignores the EXIF orientation; for files without one, nothing differs.

    Args:
        source: a path; an `http://`, `https://` or `file://` URL; the bytes of an image file; a
            binary file object, read from its current position to its end and left open; a PIL
            image; or an array of shape `(H, W)`, `(H, W, 1)`, `(H, W, 3)` RGB or `(H, W, 4)` RGBA
            with uint16 values in [0, 65535], or values in [0, 255] of any other integer or
            floating dtype (rounded to integers). EPS files are refused, since Pillow hands them
            to Ghostscript, which executes them.
        image_size: pixels of the result, one number for a square or `(height, width)`.
        crop: which part of the picture is seen. A number in (0, 1]: the picture is resized,
            keeping its proportions, until it just covers `int(image_size / crop)` pixels, and
            `image_size` is cut from its centre; sizes and offsets are rounded as torchvision
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
    size, crop = size_and_crop(image_size, crop)
    return _load(source, lambda image: _resize_and_crop(image, size, crop), timeout, max_bytes)


def load_grey(path: str | os.PathLike) -> np.ndarray:
    """A picture as `load_image` reads it, but grey and of its own size: uint8 (height, width)."""
    return _load(path, lambda image: image.convert("L"))


def _load(
    source: Any, finish: Callable, timeout: float = 10.0, max_bytes: int = 64 * 2**20
) -> np.ndarray:
    """What `finish` makes of the picture in RGB. Errors: of `load_image`."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("load_image needs Pillow: pip install pillow") from error
    if isinstance(source, np.ndarray):
        name = f"array of shape {source.shape} and dtype {source.dtype}"
    elif isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or f"PIL image of mode {source.mode}"
    else:
        name, data = _read(source, timeout, max_bytes)
        if not data:
            raise ImageError(f"{name}: empty, 0 bytes")
    try:
        if isinstance(source, np.ndarray):
            image = _array_to_image(source)
        elif isinstance(source, Image.Image):
            image = source
        else:
            Image.init()
            image = Image.open(io.BytesIO(data), formats=[f for f in Image.ID if f != "EPS"])
        return np.array(finish(_to_rgb(image)))
    # On a malformed file Pillow raises almost anything: OSError, SyntaxError, struct.error,
    # ValueError, DecompressionBombError (an Exception) ...
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "not an image, or of a format that is not supported"
        raise ImageError(f"{name}: {reason}") from error


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Names the most probable ImageNet-1k classes, in the form of `keras.applications`.

    Args:
        preds: array or tensor of shape `(N, 1000)`, probabilities or logits.
        top: how many classes to name for each image, 1 to 1000.

    Returns:
        A list of N lists of `top` tuples `(synset, name, score)`, best first, such as
        `("n02123045", "tabby", 0.93)`. Equal scores stay in label order. The score is the value
        in `preds`, as a Python float.

    Raises:
        ValueError: another shape, or `top` out of range.
    """
    preds = keras.ops.convert_to_numpy(preds)
    if preds.ndim != 2 or preds.shape[1] != 1000:
        raise ValueError(
            "decode_predictions takes a batch of predictions over the 1000 ImageNet-1k classes, "
            f"shape (N, 1000); add an axis to those of one image. Received: shape={preds.shape}"
        )
    top = operator.index(top)
    if not 1 <= top <= 1000:
        raise ValueError(f"top must be 1 to 1000. Received: top={top}")
    preds = preds.astype("float64")
    order = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(*_classes()[i], float(scores[i])) for i in best]
        for scores, best in zip(preds, order, strict=True)
    ]


def labels() -> tuple[str, ...]:
    """Returns the 1000 English class names in label order.

    A name is the first WordNet lemma of the class's synset, and not always unique: 134 (a bird)
    and 517 (a machine) are both "crane", 638 and 639 both "maillot". `synsets()` are unique.
    """
    return tuple(name for _, name in _classes())


def synsets() -> tuple[str, ...]:
    """Returns the 1000 WordNet ids ("n01440764", ...) in label order, which is sorted order.

    These are also the names of ImageNet's class folders: label `i` is folder `synsets()[i]`.
    """
    return tuple(synset for synset, _ in _classes())


@functools.cache
def _classes() -> tuple[tuple[str, str], ...]:
    file = importlib.resources.files(__package__) / "imagenet_labels.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if not line.startswith("#"))
    return tuple((synset, name) for synset, name in pairs)


def size_and_crop(image_size: Any, crop: Any) -> tuple[tuple[int, int], float | None]:
    """What the `image_size` and `crop` of `load_image` mean: (height, width), and no "official".

    Raises:
        ValueError: for anything else than `load_image` takes.
    """
    try:
        if isinstance(image_size, (tuple, list)):
            height, width = map(operator.index, image_size)
        else:
            height = width = operator.index(image_size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ValueError(
            "image_size must be a positive integer or a pair (height, width) of them. "
            f"Received: image_size={image_size!r}"
        )
    if isinstance(crop, str) and crop == "official":
        crop = 0.875 if min(height, width) < 384 else None
    if crop is not None and not (isinstance(crop, numbers.Real) and 0 < crop <= 1):
        raise ValueError(f"crop must be in (0, 1], None or 'official'. Received: crop={crop!r}")
    return (height, width), crop


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


def _array_to_image(array: np.ndarray) -> "PIL.Image.Image":
    from PIL import Image

    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[-1] in (3, 4)):
        raise ValueError("one image is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), channels last")
    if array.size == 0:
        raise ValueError("no pixels")
    kind = array.dtype.kind
    if kind not in "uif":
        raise ValueError("the values must be integers or floating-point numbers")
    if kind == "u" and array.dtype.itemsize == 2:
        # 65535 = 255 * 257: with 128 added this is x / 257 rounded to the nearest.
        array = (array.astype("uint32") + 128) // 257
    else:
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 255):  # also where they are NaN
            raise ValueError(f"the values must be in [0, 255], here they are in [{low}, {high}]")
        if kind == "f" and 0 < high <= 1:
            # A picture in [0, 1] would be read as black, without a word.
            raise ValueError("the values look like [0, 1]; multiply them by 255")
        if kind == "f":
            array = np.rint(array)
    return Image.fromarray(array.astype("uint8"))


def _to_rgb(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """Returns the picture upright, opaque, 8-bit RGB. The image itself is not changed."""
    from PIL import Image

    if 0 in image.size:
        raise ValueError("no pixels")
    image.load()  # before the orientation is read: a TIFF is turned upright here, its tag removed
    try:
        transpose = _UPRIGHT.get(image.getexif().get(0x0112, 1))
    except Exception:  # malformed EXIF, of many exception types: the picture itself is good
        transpose = None
    if transpose:
        image = image.transpose(Image.Transpose[transpose])
    if image.mode == "I":  # 32-bit, for Pillow the mode of 16-bit PGM and of older 16-bit PNG
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("32-bit values, of which some are outside [0, 65535]")
        image = _array_to_image(values.astype("uint16"))
    elif image.mode == "F" or image.mode.startswith("I;16"):
        image = _array_to_image(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _resize_and_crop(
    image: "PIL.Image.Image", size: tuple[int, int], crop: float | None
) -> "PIL.Image.Image":
    from PIL import Image

    height, width = size
    full_height, full_width = size
    if crop is not None:
        # torchvision's Resize: the side that needs the larger scale gets its exact length, the
        # other is truncated. For a square that is the short side.
        full_height, full_width = int(height / crop), int(width / crop)
        if full_height * image.width > full_width * image.height:
            full_width = int(full_height * image.width / image.height)
        else:
            full_height = int(full_width * image.height / image.width)
    # A picture of 1 x 100,000 pixels is small, but not once its short side is 256.
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and full_height * full_width > 2 * limit:
        raise ValueError(f"resized to {full_width} x {full_height} pixels it is too large")
    image = image.resize((full_width, full_height), Image.Resampling.BICUBIC)
    # torchvision's CenterCrop: round, a half to the even neighbour.
    top, left = round((full_height - height) / 2), round((full_width - width) / 2)
    return image.crop((left, top, left + width, top + height))
