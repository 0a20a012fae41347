"""The models that can be evaluated: published weights, and models in files."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from keras_cvt import architecture, classification, imagenet, models, structure
from keras_cvt import weights as weights_lib
from keras_cvt._messages import one_line
from keras_cvt._model_files import load_model
from keras_cvt._validation import check_class_names
from keras_cvt.classes import class_names
from keras_cvt.weights import Published
from training import distribute
from training.config import ConfigError
from training.evaluation import graph
from training.evaluation.settings import VARIANTS
from training.runs.folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Ready:
    """A model that is ready to be evaluated.

    Attributes:
        model: From images, float32 (batch, image_size, image_size, channels), to logits, float (batch,
            classes).
        file: Its weights.
        policy: Name of its dtype policy.
        takes_pixels: Whether the images are pixels from 0 to 255, which the model normalizes itself,
            or normalized.
    """

    model: keras.Model
    file: Path
    policy: str
    takes_pixels: bool = False


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A published variant.

    Attributes:
        name: Such as "CvT13".
        weights: Published ones, or a checkpoint of this variant.
        classes: Number of its outputs.
        image_size: What the weights are for, in pixels.
        class_names: Of its outputs; None where they are not known.
    """

    name: str
    weights: Published | Path
    classes: int
    image_size: int
    class_names: tuple[str, ...] | None = None

    def build(self, image_size: int, channels: int, precision: str) -> Ready:
        """The model for square images, with its weights; to be called in a strategy's scope.

        Args:
            image_size: Height and width of the images, in pixels.
            channels: Of the images.
            precision: One of `training.config.PRECISIONS`.

        Raises:
            ConfigError: If the model is not for such images, or its weights cannot be had.
        """
        shape, policy = (image_size, image_size, channels), distribute.policy(precision)
        with _as_config_error():
            # Before a download.
            architecture.check_input_size(architecture.VARIANTS[self.name], shape)
            weights = weights_lib.open_weights(self.weights, channels)
            model = models.constructor(self.name)(
                weights=weights,
                input_shape=shape,
                classes=self.classes,
                classifier_activation=None,
                dtype=policy,
            )
        return Ready(model, weights.path, policy)


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """A classifier in a .keras file; its graph is evaluated as it is.

    Attributes:
        name: The file or folder, as it was given.
        weights: The file.
        model: What is in it.
        class_names: Of its outputs; None where they are not known.
    """

    name: str
    weights: Path
    model: keras.Model
    class_names: tuple[str, ...] | None = None

    @property
    def classes(self) -> int:
        """Number of its outputs."""
        return self.model.outputs[0].shape[-1]

    @property
    def image_size(self) -> int:
        """What the model is for, in pixels."""
        with _as_config_error(f"{self.name}: "):
            return classification.sides_of(self.model)[0] or 224

    def build(self, image_size: int, channels: int, precision: str) -> Ready:
        """The model for square images; to be called in a strategy's scope.

        Args:
            image_size: Height and width of the images, in pixels.
            channels: Of the images.
            precision: One of `training.config.PRECISIONS`; "auto": the file's own.

        Raises:
            ConfigError: If the model is not for such images, or not a classifier whose loss is known.
        """
        wanted = self.model.inputs[0].shape[-1]
        if wanted != channels:
            raise ConfigError(
                f"{self.name} takes images of {wanted} channels. Received {channels}."
            )
        with _as_config_error(f"{self.name}: "):
            stages = structure.stage_configs(self.model)
            architecture.check_input_size(stages, (image_size, image_size, channels))
            takes_pixels = classification.takes_pixels(self.model)
        own = graph.precision_of(self.model)
        policy = own if precision == "auto" else distribute.policy(precision)
        model = graph.rebuilt(self.model, image_size, policy, self.name)
        return Ready(graph.with_logits(model, self.name), self.weights, policy, takes_pixels)


Subject = PublishedModel | ModelFile


def find_subject(
    model: str,
    weights: str | None = None,
    strategy: tf.distribute.Strategy | None = None,
    labels: Sequence[str] | None = None,
) -> Subject:
    """Finds the model that the command names. Published weights are not downloaded yet.

    Args:
        model, weights: As in `training.evaluation.settings.Settings`.
        strategy: In whose scope a file is loaded.
        labels: Names of the classes, which go before the model's own.

    Raises:
        ConfigError: If there are no such weights, the file has no classifier, or the labels are not
            those of its outputs.
    """
    if model in VARIANTS:
        subject = _published(VARIANTS[model], weights)
    else:
        file = Path(model)
        file = RunFolder(file).model if file.is_dir() else file
        subject = _model_file(model, file, strategy)
    if labels is None:
        return subject
    with _as_config_error():
        names = check_class_names(labels)
    if len(names) != subject.classes:
        raise ConfigError(
            f"--labels must name each of the {subject.classes} classes of {model}. Received "
            f"{len(names)} labels."
        )
    return dataclasses.replace(subject, class_names=names)


def _published(variant: str, weights: str | None) -> PublishedModel:
    with _as_config_error():
        found = weights_lib.find(weights or "imagenet", variant)
        if isinstance(found, Published):
            synsets = imagenet.synsets()
            return PublishedModel(variant, found, len(synsets), found.image_size, synsets)
        opened = weights_lib.open_weights(found)
        names, classes = opened.class_names, opened.classes
    if classes is None:
        raise ConfigError(f"{weights} has no classifier.")
    return PublishedModel(variant, found, classes, 224, names)


def _model_file(name: str, file: Path, strategy: tf.distribute.Strategy | None) -> ModelFile:
    scope = contextlib.nullcontext() if strategy is None else strategy.scope()
    with _as_config_error(), scope:
        model = load_model(file)
    with _as_config_error(f"{file}: "):
        model = classification.single(model)
        structure.stage_configs(model)
    shapes = [tensor.shape for tensor in (*model.inputs, *model.outputs)]
    if list(map(len, shapes)) != [4, 2]:  # images, classes
        raise ConfigError(f"{file} has no classifier.")
    return ModelFile(name, file, model, class_names(model))


@contextlib.contextmanager
def _as_config_error(before: str = "") -> Iterator[None]:
    """What keras_cvt says of arguments and files, in one line that may begin with the file's name."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(f"{before}{one_line(error)}") from error
