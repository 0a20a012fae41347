"""The names of a model's classes, which are in the model itself: see docs/classes.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_cvt import imagenet
from keras_cvt._keras_internal import graph_of, is_functional
from keras_cvt._validation import check_class_names
from keras_cvt.images.labels import with_ids
from keras_cvt.layers import ClassNames
from keras_cvt.structure import ending

IMAGENET_CLASSES = 1000

# What may follow the names without giving the outputs another order, number or meaning.
_PASSING = (
    keras.layers.Activation,
    keras.layers.Dropout,
    keras.layers.Identity,
    keras.layers.Softmax,
)
_FUNCTIONS = ("LogSoftmax", "Sigmoid", "Softmax")  # of keras.ops


def class_names(model: keras.Model) -> tuple[str, ...] | None:
    """Returns the names of a model's classes, in the order of its outputs.

    Args:
        model: Any Keras model.

    Returns:
        The names; None for a model without names, which `CvT13(weights="imagenet")` is too: its 1000
        classes are `keras_cvt.imagenet.synsets()`.

    Example:

    ```python
    model = keras.saving.load_model("runs/pets/model.keras")
    keras_cvt.class_names(model)  # ("Abyssinian", "american_bulldog", ...)
    ```
    """
    for call, _ in ending(model):
        if isinstance(call.operation, ClassNames):
            return call.operation.class_names
        if (
            not isinstance(call.operation, _PASSING)
            and type(call.operation).__name__ not in _FUNCTIONS
        ):
            break
    return None


def with_class_names(model: keras.Model, class_names: Sequence[str]) -> keras.Model:
    """Returns a model that knows the names of its classes.

    They are kept by a layer `ClassNames` behind the last one, which changes no number and has no
    weights. What they are for: `class_names`, `keras-cvt predict`, `explain` and `export`, and
    `training.evaluate`.

    Args:
        model: A functional or `Sequential` model whose one output is (batch, classes), with or without
            a CvT. It stays as it is.
        class_names: The name of each class, in the order of the model's outputs. No two may be alike.

    Returns:
        A functional `keras.Model` that shares the layers and weights of `model`. It is not compiled.
        If `model` has names, the new ones take their place.

    Raises:
        ValueError: If the names are too few, too many, empty, of several lines or alike, or the model
            is of another kind.

    Example:

    ```python
    model = keras_cvt.with_class_names(model, ["cat", "dog"])
    model.save("pets.keras")  # keras-cvt predict --model pets.keras photos/
    ```
    """
    names = check_class_names(class_names)
    if not is_functional(model) or len(model.outputs) != 1:
        raise ValueError(
            "Class names are given to a functional or Sequential model with one output. In another "
            "model, call the layer keras_cvt.ClassNames on the output. Received "
            f"{model.name!r} ({type(model).__name__})."
        )
    (output,) = model.outputs
    name = None if any(layer.name == "class_names" for layer in model.layers) else "class_names"
    last = next((call for call, path in ending(model) if not path), None)
    if last is not None and isinstance(last.operation, ClassNames):
        (output,), name = last.inputs, last.operation.name
    return keras.Model(graph_of(model).input, ClassNames(names, name=name)(output), name=model.name)


def labels_of(model: Any, labels: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """The id and the readable name of each class of a classifier.

    Args:
        model: Its output is (batch, classes).
        labels: Names that go before the model's own. Two may be alike. Defaults to None.

    Raises:
        ValueError: If their number is not that of the model's outputs; if there are none, unless there
            are as many outputs as ImageNet has classes.
    """
    count = model.output_shape[-1]
    names = class_names(model) if labels is None else labels
    if names is None and count == IMAGENET_CLASSES:
        names = imagenet.synsets()
    if names is None or len(names) != count:
        raise ValueError(
            f"The model has {count} outputs, but there are {'no' if names is None else len(names)} "
            "class names. Give the name of each class, in the order of the outputs; "
            "keras_cvt.with_class_names keeps them in the model."
        )
    return with_ids(names)
