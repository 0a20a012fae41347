"""A classifier as its users see it, whatever stands around its CvT: which images it takes, what its
answers mean, and the same classifier for other images.

All of it is read from the model's graph, by everything that classifies pictures: `keras-cvt predict`
and `explain`, `keras_cvt.export` and `training.evaluate`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_cvt._keras_internal import calls, graph_of, is_functional
from keras_cvt._messages import one_line
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.layers import ImagePreprocessing
from keras_cvt.structure import copy_weights, ending, structure_of

_LARGEST = 20.0  # beyond this, what enters a CvT is not normalized

# What changes no answer; `ending` passes it on the way back from a model's output.
_PASSING = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.Identity,
    keras.layers.Reshape,
)
_OPERATIONS = {  # of keras.ops, which are no layers
    "Cast": "linear",
    "LogSoftmax": "log_softmax",
    "Reshape": "linear",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
}
_ANSWERS = {
    "linear": "logits",
    "log_softmax": "logits",  # of which a softmax makes the same probabilities
    "sigmoid": "probabilities",
    "softmax": "probabilities",
}


def single(model: keras.Model) -> keras.Model:
    """A model with one input and one output as a plain functional model; it shares the layers.

    Raises:
        ValueError: If it has no graph, several inputs or outputs, or not one CvT.
    """
    structure, graph = structure_of(model), graph_of(model)
    if graph is None:
        structure.around()  # says what stands in the way
        raise ValueError(f"{model.name!r} must be a functional model. Give the CvT in it.")
    inputs, outputs = len(graph.inputs), len(graph.outputs)
    if (inputs, outputs) != (1, 1):
        one = "keras.Model(model.input, model.outputs[0]) has the first output alone."
        raise ValueError(
            f"A classifier must have one input, images, and one output. {model.name!r} has "
            f"{inputs} and {outputs}. {one if inputs == 1 else ''}".rstrip()
        )
    # In Keras 3.10, the one input may be in a list.
    plain = not isinstance(graph.input, dict) and isinstance(graph.output, keras.KerasTensor)
    if is_functional(model) and plain:
        return model
    return keras.Model(graph.inputs[0], graph.outputs[0], name=model.name)


def function_of(operation: Any) -> str:
    """What an operation does to each answer, by name: "linear" changes nothing that matters."""
    if isinstance(operation, _PASSING):
        return "linear"
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    activation = getattr(operation, "activation", None)
    if activation is not None:
        return activation.__name__
    kind = type(operation).__name__
    return kind if isinstance(operation, keras.Layer) else _OPERATIONS.get(kind, kind)


def gives_logits(model: keras.Model) -> bool:
    """Whether a classifier answers with logits, or with probabilities: of a softmax, or of a sigmoid.

    Args:
        model: As `single` returns it.

    Raises:
        ValueError: If it ends in something else, or in one output without a sigmoid.
    """
    function = last_function(model)
    if function != "sigmoid" and model.outputs[0].shape[-1] == 1:
        raise ValueError(
            f"{model.name!r} has one output and no sigmoid: of one class, a softmax is always 1. Put "
            'keras.layers.Activation("sigmoid") behind it.'
        )
    return _ANSWERS[function] == "logits"


def last_function(model: keras.Model) -> str:
    """The function that makes a classifier's answers, one of `_ANSWERS`; "linear" if there is none.

    Raises:
        ValueError: If it is another one.
    """
    found = "nothing that can be seen"
    for call, _ in ending(model):
        operation = call.operation
        function = function_of(operation)
        if function != "linear":
            if function in _ANSWERS:
                return function
            if isinstance(operation, keras.layers.BatchNormalization):
                return "linear"
            found = f"{operation.name} ({function})"
            break
        if isinstance(operation, keras.Layer) and operation.weights:
            return "linear"
    raise ValueError(
        f"{model.name!r} must end in logits, a softmax or a sigmoid, of which probabilities are known. "
        f"It ends in {found}."
    )


def with_probabilities(model: keras.Model) -> keras.Model:
    """The model of one input and one output whose answers are probabilities; it shares the layers.

    Raises:
        ValueError: As `single` and `gives_logits`.
    """
    model = single(model)
    if not gives_logits(model):
        return model
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(model.outputs[0])
    return keras.Model(model.inputs[0], probabilities, name=model.name)


def takes_pixels(model: keras.Model) -> bool:
    """Whether a classifier is for pixels from 0 to 255, which it normalizes itself, or for normalized
    images.

    What stands before the CvT is tried on a black and a white picture: it may be any layers without
    trained weights.

    Args:
        model: As `single` returns it.

    Raises:
        ValueError: If that is not known, or if it is for pixels on another scale.
    """
    structure = structure_of(model)
    structure.around()  # layers that can't be seen may do anything
    for operation in structure.before:
        normalizes = isinstance(operation, keras.layers.Normalization)
        if isinstance(operation, keras.Layer) and operation.weights and not normalizes:
            raise ValueError(
                f"{model.name!r} must take normalized images, or normalize pixels itself. Before its "
                f"CvT there is {operation.name} ({type(operation).__name__}), which has weights."
            )
    (images,) = model.inputs
    if not structure.before:
        return False
    black = np.zeros((1, *(side or 64 for side in images.shape[1:])), "float32")
    dark, light = (
        keras.ops.convert_to_numpy(structure.compute(picture, structure.image)).astype("float32")
        for picture in (black, black + 255)
    )
    if not dark.any() and light.max() == 255 and light.min() >= 0:
        if not keras.backend.is_float_dtype(images.dtype):
            raise ValueError(
                f"{model.name!r} takes {images.dtype} images and does not normalize them: it would see "
                "normalized images rounded to whole numbers. Let it take float32."
            )
        return False
    largest = float(max(np.abs(dark).max(), np.abs(light).max()))
    if not largest <= _LARGEST:
        raise ValueError(
            f"{model.name!r} must take normalized images, or normalize pixels from 0 to 255 itself. "
            f"Its CvT sees values up to {largest:.3g} of a white or black picture."
        )
    return True


def preprocessing_for(model: keras.Model, image_size: Any, crop: Any) -> Preprocessing:
    """How a picture becomes the input of a classifier: normalized, unless it does that itself.

    Args:
        model: As `single` returns it.
        image_size, crop: As in `load_image`.

    Raises:
        ValueError: As `takes_pixels`, and for sizes and crops that are none.
    """
    preprocessing = Preprocessing(image_size, crop)
    if takes_pixels(model):
        return dataclasses.replace(preprocessing, **unnormalized(preprocessing.channels))
    return preprocessing


def sides_of(model: keras.Model) -> tuple[int | None, int | None]:
    """(height, width) of the images that a classifier is for; None for any.

    Of a model that resizes images itself, the size that it makes of them: such images it takes as they
    are.

    Args:
        model: As `single` returns it.
    """
    for operation in structure_of(model).before:
        if isinstance(operation, ImagePreprocessing) and operation.image_size is not None:
            return operation.image_size
    return tuple(model.inputs[0].shape[1:3])


def unnormalized(channels: int) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation with which normalization leaves pixels from 0 to 255 as they are."""
    return {"mean": (0.0,) * channels, "std": (1 / 255,) * channels}


def resized(model: keras.Model, height: int | None, width: int | None) -> keras.Model:
    """The same graph with the same weights, for images of another size.

    A model that resizes images itself then makes this size of them, or, for any, still its own.

    Args:
        model: As `single` returns it; returned itself where it is for such images.
        height, width: In pixels; None for any.

    Raises:
        ValueError: If there is no such model, as where a layer is for images of one size.
    """
    if tuple(model.inputs[0].shape[1:3]) == (height, width):
        return model
    # The models inside may be for their own size, to which the images are resized before; or else
    # they are made for images of any size.
    reasons = []
    for inner in (None, (None, None)):
        config = _with_size(model.get_config(), (height, width), inner)
        try:
            other = type(model).from_config(config)
            if _inner_sizes_fit(other):
                copy_weights(model, other)
                return other
        except (ValueError, TypeError, NotImplementedError) as error:
            reasons.append(one_line(error))
    size = "any size" if None in (height, width) else f"{height}x{width} pixels"
    raise ValueError(
        f"{model.name!r} cannot be used for images of {size}: "
        f"{reasons[-1] if reasons else 'a model in it is for images of one size'}"
    )


def _with_size(config: Any, size: tuple | None, inner: tuple | None, depth: int = 0) -> Any:
    """A model's config with other sizes of the images that enter it.

    Args:
        config: Of the model.
        size: Of the images that enter it; None: they stay.
        inner: Of what enters the models in it.
        depth: How many models are around it.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(_with_size(each, size, inner, depth) for each in config)
    if not isinstance(config, dict):
        return config
    here = size if depth == 0 else inner
    changed = {}
    for key, value in config.items():
        if key == "build_config" and here is not None:
            continue  # layers are built anew, by their first call
        is_model = isinstance(value, dict) and "layers" in value
        changed[key] = _with_size(value, size, inner, depth + is_model)
        if key in ("batch_shape", "build_input_shape") and here and len(value or ()) == 4:
            changed[key] = (value[0], *here, value[3])
    if config.get("class_name") == "ImagePreprocessing" and None not in (size or (None,)):
        options = changed["config"]
        if options["image_size"] is not None:
            options["image_size"] = size
    return changed


def _inner_sizes_fit(model: keras.Model) -> bool:
    """Whether no model in a model is for one size where any size may come."""
    for call in calls(graph_of(model)):
        graph = graph_of(call.operation)
        if graph is None:
            continue
        for given, taken in zip(call.inputs, graph.inputs, strict=False):
            sides = zip(given.shape, taken.shape, strict=False)
            if any(side is None and fixed is not None for side, fixed in sides):
                return False
        if not _inner_sizes_fit(call.operation):
            return False
    return True
