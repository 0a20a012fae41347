"""The classifier that is exported, and everything around it that a format writes down."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_cvt import imagenet
from keras_cvt._keras_internal import flatten_layers
from keras_cvt.classes import labels_of
from keras_cvt.deployment import deploy
from keras_cvt.export.formats import ExportError
from keras_cvt.images.load import load
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.images.transform import normalize
from keras_cvt.structure import structure_of, with_features


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier and what is around it: everything that a format writes down.

    Attributes:
        model: from images to a dict of "probabilities" (batch, classes) and "features" (batch,
            channels), what the classifier sees.
        labels: the classes' names.
        preprocessing: How a picture becomes the model's input.
        batch_size: None for any.
        any_size: whether the model takes images of other sizes than `image_size`, too.
    """

    model: keras.Model
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    batch_size: int | None
    any_size: bool

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.preprocessing.image_size

    @property
    def mean(self) -> tuple[float, ...]:
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        return self.preprocessing.std

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        size = (None, None) if self.any_size else self.image_size
        return (self.batch_size, *size, self.preprocessing.channels)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Keras' answers, (batch, classes)."""
        return keras.ops.convert_to_numpy(self.model(images, training=False)["probabilities"])

    def load(self, path: str | os.PathLike, size: tuple[int, int] | None = None) -> np.ndarray:
        """Reads a picture as the model's input, (1, height, width, channels)."""
        preprocessing = self.preprocessing
        if size is not None:
            preprocessing = dataclasses.replace(preprocessing, image_size=size)
        pixels = load(path, preprocessing)[np.newaxis]
        return normalize(pixels, self.mean, self.std)


def classifier(
    model: keras.Model,
    labels: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    crop: float | str | None = "official",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    batch_size: int | None = None,
    any_size: bool = False,
) -> Classifier:
    """Checks a model and completes what is said of it. The arguments are those of `export`.

    Raises:
        ExportError: naming what is wrong.
    """
    if structure_of(model).head is None or len(model.output_shape) != 2:
        raise ExportError(
            "Only a classifier can be exported: a model made with include_top=True, or one whose only "
            "output comes from a Dense."
        )
    if any(layer.quantization_mode for layer in flatten_layers(model)):
        raise ExportError(
            "Keras has quantized this model, and rounds anew in each call. Export the model as it was "
            "before, with `quantize` for LiteRT."
        )
    try:
        names = [name for _, name in labels_of(model, labels)]
    except ValueError as error:
        raise ExportError(str(error)) from None
    channels = model.input_shape[-1]
    if channels not in (1, 3):
        raise ExportError(f"Only grey and RGB images can be exported, not {channels} channels.")
    if mean is None and std is None and channels == 3:
        mean, std = imagenet.MEAN, imagenet.STD
    if mean is None or std is None or not len(mean) == len(std) == channels:
        raise ExportError(
            f"`mean` and `std` must have a number for each of the {channels} channels, of pixels "
            f"divided by 255. Received mean={mean}, std={std}."
        )
    if not all(s > 0 for s in std):
        raise ExportError(f"`std` must be above 0. Received {tuple(std)}.")
    size = image_size
    if size is None:
        size = tuple(side or 224 for side in model.input_shape[1:3])
    preprocessing = Preprocessing(size, crop, mean, std)
    return Classifier(
        prepare(_with_input(model, (None, None) if any_size else preprocessing.image_size)),
        tuple(names),
        preprocessing,
        batch_size,
        any_size,
    )


def _with_input(model: keras.Model, size: tuple[int | None, ...]) -> keras.Model:
    """The same layers and weights for images of this size."""
    shape = (*size, model.input_shape[-1])
    if tuple(model.input_shape[1:]) == shape:
        return model
    images = keras.Input(shape, name="images")
    # In Keras 3.10 the one input may be in a list.
    images = keras.tree.pack_sequence_as(model.input, [images])
    other = keras.models.clone_model(model, input_tensors=images)
    other.set_weights(model.get_weights())
    return other


def prepare(model: keras.Model) -> keras.Model:
    """The model that is exported: folded for inference, with features and probabilities."""
    deployed = deploy(model)
    both = with_features(deployed)
    probabilities, features = both.output
    if structure_of(deployed).head.logits:
        probabilities = keras.layers.Softmax(name="probabilities")(probabilities)
    outputs = {"probabilities": probabilities, "features": features}
    return keras.Model(both.input, outputs, name=model.name)
