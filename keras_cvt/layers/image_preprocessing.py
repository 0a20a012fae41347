"""From pixels to what a CvT takes, as a layer of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_cvt.images.preprocessing import MEAN, STD, Preprocessing
from keras_cvt.layers.common import serializable


@serializable
class ImagePreprocessing(keras.layers.Layer):
    """Resizes, crops and normalizes images as the official evaluation does it, on every backend.

    Pictures of any size become what `keras_cvt.load_image` and `keras_cvt.preprocess_input` make of
    them, up to one gray level in one of a thousand places. A picture that has the size of the result
    already, such as `load_image` returns, is only normalized: nothing is cropped twice. The layer
    computes in float32 and has no weights.

    Args:
        image_size: Pair (height, width) of the result in pixels. Defaults to `None`: images keep their
            size.
        crop: Which part of the picture is kept, as in `keras_cvt.load_image`. Defaults to
            `"official"`.
        mean, std: For each channel, of pixels divided by 255. Default to ImageNet's.
        interpolation: `"bicubic"` or `"bilinear"`, both with antialiasing. Defaults to `"bicubic"`.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        images: (batch, height, width, channels), pixels from 0 to 255, of any real dtype.

    Returns:
        float32 (batch, *image_size, channels).

    Raises:
        ValueError: If an argument is out of range; when the layer is called, if the images have
            another number of channels than `mean`.

    Example:

    ```python
    inputs = keras.Input((None, None, 3))
    x = keras_cvt.ImagePreprocessing((224, 224))(inputs)
    model = keras.Model(inputs, keras_cvt.CvT13(input_tensor=x).output)
    ```
    """

    def __init__(
        self,
        image_size: Sequence[int] | None = None,
        crop: float | str | None = "official",
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        interpolation: str = "bicubic",
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "autocast": False})
        # Checks everything, also where nothing is resized.
        found = Preprocessing(image_size or 1, crop, mean, std, interpolation)
        self._preprocessing = found
        self.image_size = found.image_size if image_size else None
        self.crop = found.crop if image_size else crop
        self.mean, self.std, self.interpolation = found.mean, found.std, found.interpolation

    def call(self, images):
        self.compute_output_shape(images.shape)  # refuses other channels
        x = ops.cast(images, "float32")
        if self.image_size is not None:
            x = self._resize(x)
        mean, std = np.array(self.mean, "float32"), np.array(self.std, "float32")
        return ops.divide(ops.subtract(ops.divide(x, 255.0), mean), std)

    def _resize(self, x: Any) -> Any:
        """Over the width, then over the height, and rounded after each, as Pillow does it."""
        _, height, width, channels = ops.shape(x)
        kept_height, kept_width = self.image_size
        known = isinstance(height, int) and isinstance(width, int)
        if known and (height, width) == self.image_size:
            return x
        full = self._preprocessing.full_size(height, width, maximum=max if known else ops.maximum)
        same = None
        if not known:  # decided when the graph runs, without branches, which not all runtimes have
            same = ops.logical_and(ops.equal(height, kept_height), ops.equal(width, kept_width))
            full = [ops.where(same, k, f) for k, f in zip(self.image_size, full, strict=True)]
        top, left = self._preprocessing.crop_start(*full)

        def rounded(x):
            levels = ops.clip(ops.floor(x + 0.5), 0, 255)  # Pillow rounds a half up
            return levels if same is None else ops.where(same, x, levels)

        columns = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, width, height * channels))
        x = rounded(ops.matmul(self._weights(width, full[1], left, kept_width), columns))
        x = ops.transpose(ops.reshape(x, (-1, kept_width, height, channels)), (0, 2, 1, 3))
        rows = ops.reshape(x, (-1, height, kept_width * channels))
        x = rounded(ops.matmul(self._weights(height, full[0], top, kept_height), rows))
        return ops.reshape(x, (-1, kept_height, kept_width, channels))

    def _weights(self, given: Any, full: Any, start: Any, kept: int) -> Any:
        """The matrix (kept, given) that scales `given` lines to `full` ones, and keeps those from
        `start` on."""
        radius, kernel = _KERNELS[self.interpolation]
        # Where the size is known, in float64, as Pillow computes them.
        known = isinstance(given, int) and isinstance(full, int)
        do, real = (np, np.float64) if known else (ops, lambda x: ops.cast(x, "float32"))
        scale = real(given) / real(full)
        stretch = do.maximum(scale, 1.0)
        numbers = real(do.arange(kept)) + real(start)
        centers = (numbers[:, None] + 0.5) * scale
        places = real(do.arange(given))[None] + 0.5
        distances = do.abs(places - centers) / stretch
        weights = do.where(distances < radius, kernel(distances, do.where), 0.0)
        weights = weights / do.sum(weights, axis=1, keepdims=True)
        return weights.astype("float32") if known else weights

    def compute_output_spec(self, images):
        shape = self.compute_output_shape(images.shape)
        return keras.KerasTensor(shape, dtype="float32")

    def compute_output_shape(self, images_shape):
        batch, height, width, channels = images_shape
        if channels != len(self.mean):
            raise ValueError(
                f"The images must have {len(self.mean)} channels, as `mean` has. Received shape "
                f"{tuple(images_shape)}."
            )
        return (batch, *(self.image_size or (height, width)), channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "crop": self.crop,
            "mean": self.mean,
            "std": self.std,
            "interpolation": self.interpolation,
        }


def _bicubic(d: Any, where: Callable[..., Any]) -> Any:
    """Cubic convolution with a = -0.5."""
    return where(d < 1, (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2)


# For each interpolation how far a pixel reaches, and its weight by distance.
_KERNELS = {"bicubic": (2, _bicubic), "bilinear": (1, lambda d, where: 1 - d)}
