"""From a picture to the input of a model, with Pillow and NumPy: see `Preprocessing`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cvt.images.exif import orientation
from keras_cvt.images.preprocessing import MEAN, STD, Preprocessing

if TYPE_CHECKING:
    import PIL.Image

# EXIF orientation -> the Pillow transpose that turns the picture upright. ImageOps.exif_transpose
# also writes the EXIF block anew, and so fails on a good picture with another, malformed tag; and it
# follows XMP, which nobody else does.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

# A picture that would be so many times as long as what is kept of it is cut before it is resized.
_THIN = 16

# Pillow's names of how gray pixels of few bits are packed in a PNG -> the highest value.
_HIGHEST = {"1": 1, "L;1": 1, "L;2": 3, "L;4": 15}


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
    import keras  # here: who only decodes pictures needs no Keras

    is_tensor = keras.ops.is_tensor(x) or isinstance(x, keras.KerasTensor)
    if not is_tensor:
        x = np.asarray(x)
    # In a tf.data pipeline the channels may not be known yet: None.
    if x.shape[-1] not in (3, None):
        raise ValueError(
            f"preprocess_input takes RGB images of shape (..., 3). Received: shape={x.shape}"
        )
    if not is_tensor:
        return normalize(x)
    x = keras.ops.divide(keras.ops.cast(x, "float32"), 255.0)
    mean, std = np.array(MEAN, "float32"), np.array(STD, "float32")
    return keras.ops.divide(keras.ops.subtract(x, mean), std)


def normalize(
    pixels: np.ndarray, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> np.ndarray:
    """Scales pixels (..., channels) in [0, 255] to float32 `(pixels / 255 - mean) / std`."""
    mean, std = (np.array(values, "float32") for values in (mean, std))
    if not mean.any() and (std == np.float32(1 / 255)).all():
        return pixels.astype("float32")  # unrounded: some models cast them to integers
    return (pixels.astype("float32") / np.float32(255.0) - mean) / std


def array_to_image(array: np.ndarray) -> PIL.Image.Image:
    """Returns the picture of an array as `load_image` takes it."""
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
        _check_depth(array)
        array = _scaled(array)
    else:
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 255):  # also where they are NaN
            raise ValueError(f"the values must be in [0, 255], here they are in [{low}, {high}]")
        # A picture in [0, 1] would be read as black, without a word. Resizing, if bicubic, leaves some
        # values above 1.
        if kind == "f" and (0 < high <= 1 or (high < 2 and (array % 1).any())):
            raise ValueError("the values look like [0, 1]; multiply them by 255")
        if kind == "f":
            array = np.rint(array)
    return Image.fromarray(array.astype("uint8"))


def _check_depth(values: np.ndarray) -> None:
    """Refuses values of more than 8 bits that are probably 8-bit ones: they would be read as black.

    Raises:
        ValueError: If they are all below 256, and not all 0.
    """
    highest = values.max()
    if 0 < highest <= 255:
        raise ValueError(
            f"values of more than 8 bits, 65535 being white, but none is above {highest}; if 255 is "
            "white, convert them to uint8"
        )


def _scaled(values: np.ndarray) -> np.ndarray:
    """Brings values of 16 bits to 8."""
    # 65535 = 255 * 257: with 128 added this is x / 257 rounded to the nearest.
    return ((values.astype("uint32") + 128) // 257).astype("uint8")


def to_rgb(
    image: PIL.Image.Image,
    background: tuple[int, int, int] = (255, 255, 255),
    upright: bool = True,
) -> PIL.Image.Image:
    """Returns the picture upright, opaque, 8-bit RGB. The image itself is not changed.

    Args:
        image: Of any mode; an animation's current frame.
        background: What a transparent picture is laid on.
        upright: Whether the EXIF orientation is followed. (Pillow turns a TIFF upright by itself.)

    Raises:
        ValueError: If there are no pixels, or values out of range.
    """
    from PIL import Image

    if 0 in image.size:
        raise ValueError("no pixels")
    key = _transparent_color(image)
    # In the mode "I" of a TIFF, and in any mode of an image made of an array, there may be 8 bits.
    deep = image.format in ("PNG", "PPM") or (image.format is not None and image.mode != "I")
    image.load()
    if upright:
        transpose = _UPRIGHT.get(orientation(image.info.get("exif", b"")))
        if transpose:
            image = image.transpose(Image.Transpose[transpose])
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        # Of 32 bits, for Pillow the mode of 16-bit PGM and of older 16-bit PNG.
        if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise ValueError("32-bit values, of which some are outside [0, 65535]")
        if not deep and image.mode != "F":
            _check_depth(values)
        image = array_to_image(values) if image.mode == "F" else Image.fromarray(_scaled(values))
        if key is not None:
            image.putalpha(Image.fromarray((values != key).astype("uint8") * 255))
    elif key is not None and key != image.info["transparency"]:
        image = image.copy()
        image.info["transparency"] = key
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB")


def _transparent_color(image: PIL.Image.Image) -> int | None:
    """Returns the gray value that a PNG, not loaded yet, declares transparent; None for other pictures.

    In Pillow it is as the file has it, in few or 16 bits, whereas the pixels are in 8.
    """
    key = image.info.get("transparency")
    if image.format != "PNG" or not image.tile or not isinstance(key, (int, tuple)):
        return None
    packed = image.tile[0][3]
    if packed == "RGB;16B":
        raise ValueError("a transparent color of 16 bits, which Pillow does not find")
    if image.mode == "P" or not isinstance(key, int):
        return None
    return key * 255 // _HIGHEST[packed] if packed in _HIGHEST else key


def resize_and_crop(image: PIL.Image.Image, preprocessing: Preprocessing) -> PIL.Image.Image:
    """Resizes a picture, and cuts what the model sees from its center."""
    full = preprocessing.full_size(image.height, image.width)
    start = preprocessing.crop_start(*full)
    # The width first, as in Pillow up to 12 and so in the official evaluation: Pillow 13 goes over the
    # height of some pictures first, and rounds then.
    for axis in (1, 0):
        image = _resized(
            image,
            axis,
            full[axis],
            start[axis],
            preprocessing.image_size[axis],
            preprocessing.interpolation,
        )
    return image


def _resized(
    image: PIL.Image.Image, axis: int, full: int, start: int, kept: int, interpolation: str
) -> PIL.Image.Image:
    """Scales the height (axis 0) or the width (axis 1) to `full` pixels, and cuts `kept` of them."""
    from PIL import Image

    size = [image.height, image.width]
    given, size[axis] = size[axis], kept
    filter = Image.Resampling[interpolation.upper()]

    def box(first: float, last: float) -> tuple[float, float, float, float]:
        sides = [(0, image.height), (0, image.width)]
        sides[axis] = first, last
        (top, bottom), (left, right) = sides
        return left, top, right, bottom

    if full <= _THIN * kept:
        size[axis] = full
        image = image.resize((size[1], size[0]), filter)
        return image.crop(box(start, start + kept)) if full > kept else image
    # Of a picture of 1 x 100,000 pixels, the rest would fill the memory. Pillow's box has fewer digits
    # than its own arithmetic: so it is laid near the picture's beginning, after a first cut.
    scale = given / full
    reach = 1 + int(2 * max(scale, 1))
    first = max(int(start * scale) - reach, 0)
    last = min(int((start + kept) * scale) + 1 + reach, given)
    image = image.crop(box(first, last))
    return image.resize(
        (size[1], size[0]), filter, box(start * scale - first, (start + kept) * scale - first)
    )
