"""The classifier that is exported, and everything around it that a format writes down."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_cvt import classification, imagenet
from keras_cvt._keras_internal import flatten_layers
from keras_cvt._messages import one_line
from keras_cvt.classes import labels_of
from keras_cvt.deployment import deploy
from keras_cvt.export.formats import ExportError
from keras_cvt.images.load import load
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.images.transform import normalize
from keras_cvt.inference.exported import Description
from keras_cvt.structure import structure_of, with_features

# Several steps of the dtype: a CvT adds the results of some dozen operations.
_ROUNDING = {"bfloat16": 0.1, "float16": 0.01}


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier and what is around it: everything that a format writes down.

    Attributes:
        model: What is written: from images to a dict of "probabilities" (batch, classes) and, where
            it is seen what the classifier reads, "features" (batch, channels).
        given: The model that is to be exported, as it was given: what every file is verified against.
        sized: The same for images of the exported size.
        logits: Whether its answers are logits.
        labels: the classes' names.
        class_ids: the classes' ids, as `labels_of` gives them.
        preprocessing: How a picture becomes the model's input.
        batch_size: None for any.
        any_size: whether the model takes images of other sizes than `image_size`, too.
    """

    model: keras.Model
    given: keras.Model
    sized: keras.Model
    logits: bool
    labels: tuple[str, ...]
    class_ids: tuple[str, ...]
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
    def description(self) -> Description:
        """What the file says of itself."""
        return Description(self.preprocessing, tuple(zip(self.class_ids, self.labels, strict=True)))

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        size = (None, None) if self.any_size else self.image_size
        return (self.batch_size, *size, self.preprocessing.channels)

    @property
    def has_features(self) -> bool:
        return "features" in self.model.output

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """What the given model says of images, (batch, classes)."""
        sides = zip(self.given.input_shape[1:], images.shape[1:], strict=True)
        fits = all(side in (None, size) for side, size in sides)
        answers = (self.given if fits else self.sized)(images, training=False)
        answers = keras.ops.cast(answers, "float32")
        return keras.ops.convert_to_numpy(keras.ops.softmax(answers) if self.logits else answers)

    def features(self, images: np.ndarray) -> np.ndarray:
        """What its classifier reads of images of the exported size, (batch, channels)."""
        return keras.ops.convert_to_numpy(with_features(self.sized)(images, training=False)[1])

    @property
    def rounding(self) -> float:
        """How far answers may be off by rounding in the dtypes in which the model computes, as a share
        of the largest: folded weights are rounded otherwise."""
        return max(_ROUNDING.get(dtype, 0.0) for dtype in self.dtypes)

    @property
    def dtypes(self) -> set[str]:
        """In which the given model's layers compute."""
        return {layer.compute_dtype for layer in flatten_layers(self.given) if layer.weights}

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
    try:
        model = classification.single(model)
        if len(model.output_shape) != 2:
            raise ValueError(
                "Only a classifier can be exported, such as a model made with include_top=True. "
                f"{model.name!r} gives {model.output_shape} instead of (batch, classes)."
            )
        logits = classification.gives_logits(model)
        pixels = mean is None and std is None and classification.takes_pixels(model)
    except ValueError as error:
        raise ExportError(one_line(error)) from None
    if any(layer.quantization_mode for layer in flatten_layers(model)):
        raise ExportError(
            "Keras has quantized this model, and rounds anew in each call. Export the model as it was "
            "before, with `quantize` for LiteRT."
        )
    try:
        ids, names = zip(*labels_of(model, labels), strict=True)
    except ValueError as error:
        raise ExportError(str(error)) from None
    channels = model.input_shape[-1]
    if channels not in (1, 3):
        raise ExportError(f"Only grey and RGB images can be exported, not {channels} channels.")
    if pixels:  # the model has its own normalization
        mean, std = classification.unnormalized(channels).values()
    elif mean is None and std is None and channels == 3:
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
        size = tuple(side or 224 for side in classification.sides_of(model))
    preprocessing = Preprocessing(size, crop, mean, std)
    try:
        sized = classification.resized(
            model, *((None, None) if any_size else preprocessing.image_size)
        )
    except ValueError as error:
        raise ExportError(one_line(error)) from None
    return Classifier(
        model=prepare(sized, logits),
        given=model,
        sized=sized,
        logits=logits,
        labels=names,
        class_ids=ids,
        preprocessing=preprocessing,
        batch_size=batch_size,
        any_size=any_size,
    )


def prepare(model: keras.Model, logits: bool) -> keras.Model:
    """The model that is exported: folded for inference, with probabilities and, if it can be, features.

    Args:
        model: A classifier.
        logits: Whether its answers are logits.
    """
    deployed = deploy(model)
    outputs = {"probabilities": deployed.outputs[0]}
    if structure_of(deployed).head is not None:
        deployed = with_features(deployed)
        outputs = dict(zip(("probabilities", "features"), deployed.output, strict=True))
    if logits:
        softmax = keras.layers.Softmax(dtype="float32", name="probabilities")
        outputs["probabilities"] = softmax(outputs["probabilities"])
    return keras.Model(deployed.inputs[0], outputs, name=model.name)
