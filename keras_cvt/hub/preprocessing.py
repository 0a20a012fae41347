"""From raw images to what a CvT takes, as layers of KerasHub."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras_hub.layers import ImageConverter
from keras_hub.models import ImageClassifierPreprocessor

from keras_cvt.hub.backbone import CvTBackbone
from keras_cvt.images.preprocessing import MEAN, STD, Preprocessing
from keras_cvt.layers import ImagePreprocessing
from keras_cvt.layers.common import serializable


@serializable
class CvTImageConverter(ImageConverter):
    """Resizes, crops and normalizes images as the official evaluation of CvT does it.

    What comes out is what `keras_cvt.preprocess_input` makes of `keras_cvt.load_image`. Works on arrays
    and tensors of the Keras backend, and inside `tf.data` and Grain pipelines. A picture that has the
    size already is only normalized.

    Args:
        image_size: Pair (height, width) of the result in pixels, or `None`: images keep their size.
            Defaults to `(224, 224)`.
        crop: Which part of the picture is kept, as in `keras_cvt.load_image`. Defaults to
            `"official"`: 0.875 below 384 pixels, and the whole picture, whatever its proportions, from
            there on.
        mean, std: For each channel, of pixels divided by 255. Default to ImageNet's.
        interpolation: `"bicubic"` or `"bilinear"`, both with antialiasing. Defaults to `"bicubic"`.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        inputs: An image (height, width, channels), a batch (batch, height, width, channels), or a list
            of images of several sizes; pixels from 0 to 255.

    Returns:
        float32 of the shape of `inputs` with the new size: a NumPy array for an array, a tensor for a
        tensor, a list for a list.
    """

    backbone_cls = CvTBackbone

    def __init__(
        self,
        image_size: Sequence[int] | None = (224, 224),
        crop: float | str | None = "official",
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        interpolation: str = "bicubic",
        **kwargs: Any,
    ):
        # What KerasHub says of its converters in other words, for who asks.
        super().__init__(
            scale=[1 / (255 * s) for s in std],
            offset=[-m / s for m, s in zip(mean, std, strict=True)],
            crop_to_aspect_ratio=crop is not None,
            interpolation=interpolation,
            antialias=True,
            data_format="channels_last",
            **{"dtype": "float32", **kwargs},
        )
        self.crop, self.mean, self.std = crop, tuple(mean), tuple(std)
        self.image_size = image_size

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Settable pair (height, width) of the result."""
        return self._layer.image_size

    @image_size.setter
    def image_size(self, value: Sequence[int] | None) -> None:
        self._layer = ImagePreprocessing(
            value, self.crop, self.mean, self.std, self.interpolation, dtype="float32"
        )

    def call(self, inputs):
        if isinstance(inputs, (list, tuple)):
            images = [self.call(np.asarray(image)) for image in inputs]
            alike = len({image.shape for image in images}) == 1
            return np.stack(images) if alike else images
        if isinstance(inputs, dict):
            raise ValueError(
                "CvTImageConverter takes images alone. Boxes are moved with their pictures by "
                "keras_hub.layers.ImageConverter or the detector's own converter."
            )
        batch = inputs[None] if len(inputs.shape) == 3 else inputs
        tf = sys.modules.get("tensorflow")
        if tf is not None and tf.is_tensor(inputs):  # in tf.data, whatever the backend is
            result = self._in_tensorflow(batch)
        else:
            result = self._layer(batch)
            if isinstance(inputs, np.ndarray):
                result = keras.ops.convert_to_numpy(result)
        return result[0] if len(inputs.shape) == 3 else result

    def _in_tensorflow(self, images: Any) -> Any:
        import tensorflow as tf

        from keras_cvt.images import graph

        if self.image_size is not None:
            if images.dtype != tf.uint8:
                levels = tf.clip_by_value(tf.cast(images, tf.float32) + 0.5, 0, 255)
                images = tf.cast(levels, tf.uint8)
            preprocessing = Preprocessing(
                self.image_size, self.crop, self.mean, self.std, self.interpolation
            )
            height, width = self.image_size
            images = tf.cond(
                tf.reduce_all(tf.equal(tf.shape(images)[1:3], self.image_size)),
                lambda: images[:, :height, :width],
                lambda: graph.resize_and_crop(images, preprocessing),
            )
            images = tf.ensure_shape(images, (None, height, width, None))
        return graph.normalize(images, self.mean, self.std)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        for derived in ("scale", "offset", "antialias", "bounding_box_format"):
            config.pop(derived, None)
        for derived in ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "data_format"):
            config.pop(derived, None)
        return {**config, "crop": self.crop, "mean": self.mean, "std": self.std}


@serializable
class CvTImageClassifierPreprocessor(ImageClassifierPreprocessor):
    """`CvTImageConverter` on images; labels and sample weights pass through."""

    backbone_cls = CvTBackbone
    image_converter_cls = CvTImageConverter
