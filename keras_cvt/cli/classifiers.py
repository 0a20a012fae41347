"""The classifier that `predict`, `explain` and `export` are asked to use."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from keras_cvt import _backend, _commands
from keras_cvt.architecture import variant_named

if TYPE_CHECKING:
    import keras

    from keras_cvt.images.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model with its weights, and how pictures come to it and classes to their names.

    Attributes:
        model: From preprocessed images to probabilities.
        preprocessing: How a picture becomes the model's input.
        labels: (id, name) of each class.
        top: How many classes to name.
    """

    model: keras.Model
    preprocessing: Preprocessing
    labels: list[tuple[str, str]]
    top: int


def add_model_options(
    parser: argparse.ArgumentParser,
    labels: bool = True,
    model: str = "cvt13, cvt21 or cvtw24; or a .keras file with its weights",
) -> None:
    """The options that `open_model` reads; `--labels` is for who names classes."""
    parser.add_argument("--model", required=True, help=model)
    parser.add_argument(
        "--weights", help="a published name or a file (default: imagenet; none for a .keras file)"
    )
    parser.add_argument(
        "--image-size",
        type=_commands.image_size,
        metavar="SIZE",
        help="in pixels: 384, or HEIGHTxWIDTH (default: the model's or the weights', else 224)",
    )
    if labels:
        parser.add_argument(
            "--labels",
            metavar="FILE",
            help="a class name on each line (default: the model's own, or ImageNet's if it has 1000 "
            "classes without names)",
        )


def add_options(parser: argparse.ArgumentParser, **options: str) -> None:
    """The options that `open_classifier` reads; others as of `add_model_options`."""
    add_model_options(parser, **options)
    parser.add_argument(
        "--top",
        type=_commands.integer(1),
        metavar="K",
        help="default: 5, or all if they are fewer",
    )


def open_model(
    arguments: argparse.Namespace, labels: list[str] | None
) -> tuple[keras.Model, tuple[int, int] | None, float | str | None]:
    """The model that is meant, with all its weights, those of the classifier included.

    Args:
        arguments: With the options of `add_model_options`.
        labels: What `_commands.read_labels` returned: a variant has as many classes.

    Returns:
        The model; the image size that was asked for, or else that of the weights, or None for a
        `.keras` file; and the crop that belongs to it.

    Raises:
        ValueError: If the model and its weights can't be what was asked for.
        OSError: If they can't be read, or downloaded.
    """
    size = arguments.image_size
    if arguments.model.endswith(".keras"):
        if arguments.weights is not None:
            raise ValueError(f"{arguments.model} has its own weights: leave out --weights.")
        _backend.start_quietly()
        from keras_cvt._model_files import load_model

        return load_model(arguments.model), size, "official"
    variant = variant_named(arguments.model)
    _backend.start_quietly()
    import keras_cvt
    from keras_cvt import models, weights

    source = weights.find(arguments.weights or "imagenet", variant)
    crop: float | str | None = "official"
    if size is None and isinstance(source, weights.Published):
        size, crop = (source.image_size, source.image_size), source.crop
    size = size or (224, 224)
    source = weights.open_weights(source)
    names = source.class_names if labels is None else labels
    classes = 1000 if names is None else len(names)
    source.check_classes(classes)
    model = models.constructor(variant)(weights=source, classes=classes, input_shape=(*size, 3))
    if labels is None and names is not None:  # those in a .keras file
        model = keras_cvt.with_class_names(model, names)
    return model, size, crop


def open_classifier(arguments: argparse.Namespace) -> Classifier:
    """The classifier that is meant.

    Args:
        arguments: With the options of `add_options`.

    Raises:
        ValueError: If it is no classifier of RGB images with as many classes as there are labels.
        OSError: If it can't be read, or downloaded.
    """
    given = _commands.read_labels(arguments.labels)
    if given is not None and arguments.top is not None:
        check_top(arguments.top, len(given))  # before weights are fetched
    model, image_size, crop = open_model(arguments, given)
    from keras_cvt import classification  # imports Keras, which `open_model` starts quietly

    model = classification.with_probabilities(model)
    image_size = checked_size(arguments.model, model, image_size)
    preprocessing = classification.preprocessing_for(model, image_size, crop)
    labels = name_classes(arguments.model, model, given)
    top = min(5, len(labels)) if arguments.top is None else arguments.top
    check_top(top, len(labels))
    return Classifier(model, preprocessing, labels, top)


def check_top(top: int, classes: int) -> None:
    """Refuses to name more classes than there are."""
    if top > classes:
        raise ValueError(f"--top {top}: there are {classes} classes")


def name_classes(name: str, model: keras.Model, labels: list[str] | None) -> list[tuple[str, str]]:
    """The id and the readable name of each class.

    Args:
        name: The model's name in messages.
        model: A classifier.
        labels: What `_commands.read_labels` returned; None for the model's own names.

    Raises:
        ValueError: If the model is no classifier of as many classes, or there are no names.
    """
    from keras_cvt import classes

    outputs = model.output_shape[1:]
    names = classes.class_names(model) if labels is None else labels
    if names is None and outputs != (classes.IMAGENET_CLASSES,):
        raise ValueError(
            f"{name} has no class names, and its output is {model.output_shape}. --labels FILE gives a "
            "name for each class, one on each line."
        )
    if labels is not None and outputs != (len(labels),):
        raise ValueError(
            f"--labels must name each class of {name}, whose output is {model.output_shape}. Received "
            f"{len(labels)} labels."
        )
    return classes.labels_of(model, labels)


def checked_size(
    name: str, model: keras.Model, image_size: tuple[int, int] | None
) -> tuple[int, int]:
    """Refuses images that can't be used; returns their size."""
    *sides, channels = model.input_shape[1:]
    if channels != 3:
        raise ValueError(f"{name} takes images of {channels} channels; pictures are read as RGB.")
    if len(sides) != 2:
        raise ValueError(
            f"{name} must take images, (batch, height, width, 3). Its input is {model.input_shape}."
        )
    from keras_cvt import classification

    sides = classification.sides_of(model)
    if image_size is None:
        return tuple(side or 224 for side in sides)
    if not all(side in (None, size) for side, size in zip(sides, image_size, strict=True)):
        raise ValueError(
            f"{name} takes images of {sides[0]}x{sides[1]} pixels, not "
            f"{image_size[0]}x{image_size[1]}: leave out --image-size."
        )
    return image_size
