"""How a picture becomes the input of a model: the one description that every reader follows.

    decode -> upright -> opaque, on white -> resize -> center crop -> normalize

It is carried out by `keras_cvt.images.transform` with Pillow and NumPy, for single pictures, and by
`keras_cvt.images.graph_decode` and `keras_cvt.images.graph` with TensorFlow, inside a `tf.data`
pipeline or an exported graph.
"""

from __future__ import annotations

import dataclasses
import numbers
import operator
from collections.abc import Callable
from typing import Any

# Mean and standard deviation of ImageNet's R, G and B channels, for values in [0, 1].
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# From this short side on, the official evaluation resizes the whole picture instead of cropping it.
WHOLE_FROM = 384
OFFICIAL_CROP = 0.875
SMALLEST_CROP = 0.01  # the whole picture is then resized to a hundred times the size of the result
LARGEST_SIDE = 65_535  # pixels, as of a JPEG


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """From a decoded picture to the input of a model.

    Args:
        image_size: Pixels of the result: one number for a square, or `(height, width)`. Kept as a
            pair.
        crop: Which part of the picture the model sees. A number from 0.01 to 1: the picture is resized,
            keeping its proportions, until it just covers `int(image_size / crop)` pixels, and
            `image_size` is cut from its center. `None`: the whole picture is resized to
            `image_size`, whatever its proportions. `"official"`: 0.875 where the short side of
            `image_size` is below 384, `None` from 384 on; kept as the number or `None`.
        mean, std: What normalization subtracts and divides by, for each channel, in terms of values
            in [0, 1]. Their number is that of the channels. Default to ImageNet's.
        interpolation: "bicubic", or "bilinear"; both with antialiasing, as Pillow resizes.
        background: The color (R, G, B), 0 to 255, that transparent pictures are laid on.

    Raises:
        ValueError: If an argument is out of range.
    """

    image_size: tuple[int, int] | int
    crop: float | str | None = "official"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    interpolation: str = "bicubic"
    background: tuple[int, int, int] = (255, 255, 255)

    def __post_init__(self):
        size, crop = size_and_crop(self.image_size, self.crop)
        mean, std = (tuple(map(float, values)) for values in (self.mean, self.std))
        if len(mean) != len(std) or not mean or not all(value > 0 for value in std):
            raise ValueError(
                "mean and std must have a number for each channel, and std must be above 0. "
                f"Received: mean={self.mean!r}, std={self.std!r}"
            )
        if self.interpolation not in ("bicubic", "bilinear"):
            raise ValueError(
                "interpolation must be 'bicubic' or 'bilinear'. "
                f"Received: interpolation={self.interpolation!r}"
            )
        for name, value in (("image_size", size), ("crop", crop), ("mean", mean), ("std", std)):
            object.__setattr__(self, name, value)

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the result."""
        return (*self.image_size, self.channels)

    def full_size(self, height: Any, width: Any, maximum: Callable = max) -> tuple[Any, Any]:
        """The size that a picture is resized to before `image_size` is cut from its center.

        Args:
            height, width: Of the picture: Python integers, or integer tensors of 64 bits.
            maximum: Of two of them.
        """
        if self.crop is None:
            return self.image_size
        # torchvision's Resize: the side that needs the larger scale gets its exact length, the
        # other is truncated. For a square that is the short side.
        least_height, least_width = (int(side / self.crop) for side in self.image_size)
        return (
            maximum(least_width * height // width, least_height),
            maximum(least_height * width // height, least_width),
        )

    def crop_start(self, full_height: Any, full_width: Any) -> tuple[Any, Any]:
        """Top and left of the part of the resized picture that is kept."""

        def start(full: Any, kept: int) -> Any:
            # torchvision's CenterCrop: half of the rest, a half rounded to the even neighbor.
            rest = full - kept
            return (rest + rest // 2 % 2) // 2

        return start(full_height, self.image_size[0]), start(full_width, self.image_size[1])


def size_and_crop(image_size: Any, crop: Any) -> tuple[tuple[int, int], float | None]:
    """Resolves the `image_size` and `crop` of `load_image` to (height, width), and no "official".

    Raises:
        ValueError: For anything that `load_image` does not take.
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
        crop = OFFICIAL_CROP if min(height, width) < WHOLE_FROM else None
    if crop is not None and not (isinstance(crop, numbers.Real) and SMALLEST_CROP <= crop <= 1):
        raise ValueError(
            f"crop must be from {SMALLEST_CROP} to 1, None or 'official'. Received: crop={crop!r}"
        )
    return (height, width), crop
