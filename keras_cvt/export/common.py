"""What all formats share: the model as it is exported, and the proof that a file answers as it does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from keras_cvt import imagenet
from keras_cvt.deployment import deploy
from keras_cvt.images.load import load
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.images.transform import normalize
from keras_cvt.structure import stage_configs

# A NASA photograph (public domain) of Eileen Collins. It proves an export, and warms up a server.
PICTURE = Path(__file__).with_name("astronaut.jpg")

# Images, float32 (batch, height, width, channels), preprocessed -> probabilities (batch, classes).
Run = Callable[[np.ndarray], np.ndarray]


class ExportError(ValueError):
    """A model can't be exported as asked, or what was written is not the same function."""


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
    stage_configs(model)  # says what is no CvT
    if not any(layer.name == "head" for layer in model.layers):
        raise ExportError("Only a classifier can be exported: a model made with include_top=True.")
    if any(layer.quantization_mode for layer in model._flatten_layers()):
        raise ExportError(
            "Keras has quantized this model, and rounds anew in each call. Export the model as it was "
            "before, with `quantize` for LiteRT."
        )
    classes = model.output_shape[-1]
    if labels is None and classes == 1000:
        labels = imagenet.labels()
    if labels is None or len(labels) != classes:
        raise ExportError(
            f"The model tells {classes} classes apart, but there are "
            f"{'no' if labels is None else len(labels)} labels. Give the name of each class."
        )
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
        tuple(labels),
        preprocessing,
        batch_size,
        any_size,
    )


def _with_input(model: keras.Model, size: tuple[int | None, ...]) -> keras.Model:
    """The same layers and weights for images of this size."""
    shape = (*size, model.input_shape[-1])
    if tuple(model.input_shape[1:]) == shape:
        return model
    other = keras.models.clone_model(model, input_tensors=keras.Input(shape, name="images"))
    other.set_weights(model.get_weights())
    return other


def prepare(model: keras.Model) -> keras.Model:
    """The model that is exported: folded for inference, with features and probabilities."""
    model = deploy(model)
    head = model.get_layer("head")
    probabilities = model.output
    if head.activation is keras.activations.linear:
        probabilities = keras.layers.Softmax(name="probabilities")(probabilities)
    outputs = {"probabilities": probabilities, "features": head.input}
    return keras.Model(model.input, outputs, name=model.name)


def difference(answers: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays, as a share of the largest expected value: whether many
    classes share the probability or one has it all, a wrong answer is seen. Infinite where the shapes
    differ or an answer is no number."""
    if answers.shape != expected.shape or not np.isfinite(answers).all():
        return float("inf")
    return float(np.abs(answers - expected).max() / np.abs(expected).max())


def prove(model: Classifier, run: Run, tolerance: float) -> float:
    """Asks a written file and Keras about a real picture, in all the shapes that were promised.

    Args:
        model: what was written.
        run: answers in the file's own runtime.
        tolerance: the largest `difference` that is borne.

    Returns:
        The largest difference found.

    Raises:
        ExportError: if it is more than `tolerance`.
    """
    height, width = model.image_size
    sizes = [(height, width)]
    if model.any_size:
        sizes.append((height + 16, width + 32))
    found = 0.0
    for size in sizes:
        picture = model.load(PICTURE, size)
        for count in [1, 2] if model.batch_size is None else [model.batch_size]:
            # Every other image is mirrored: rows that are mixed up are found out, too.
            flips = [picture, picture[:, :, ::-1]]
            images = np.concatenate([flips[i % 2] for i in range(count)])
            found = max(found, difference(run(images), model.probabilities(images)))
    if not found <= tolerance:
        raise ExportError(
            f"The exported file differs from Keras' probabilities by {found:.1e} of the largest, more "
            f"than the tolerance {tolerance:.1e}. It was removed."
        )
    return found


@contextlib.contextmanager
def folder_of_versions(folder: Path) -> Iterator[None]:
    """Makes a folder if there is none, and removes it if the body leaves it empty."""
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def next_version(folder: Path) -> int:
    """The number after the last version in a model's folder; 1 if there is none."""
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; a SavedModel is a folder.")
    found = folder.iterdir() if folder.is_dir() else ()
    return 1 + max((int(path.name) for path in found if path.name.isdecimal()), default=0)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
