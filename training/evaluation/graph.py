"""The model of a file, as it is: what goes in, what comes out, and the same graph for other images."""

from __future__ import annotations

import collections
from typing import Any

import keras

from keras_cvt._keras_internal import flatten_layers
from keras_cvt._messages import one_line
from keras_cvt.classification import function_of, resized, sides_of
from keras_cvt.structure import copy_weights, structure_of
from training.config import ConfigError


def with_logits(model: keras.Model, name: str) -> keras.Model:
    """The model with logits for outputs, of which the loss is more exact than of probabilities.

    Args:
        model: A classifier with one CvT in it, that ends in a Dense and, if anything, a softmax: the
            Dense's own activation, an `Activation` or a `Softmax`. The result shares its layers.
        name: The model's name in messages.

    Raises:
        ConfigError: If it ends in something else, whose loss is not the cross-entropy of classes, or in
            one output.
    """
    head = structure_of(model).head
    ending = [] if head is None else [head.dense, *head.behind]
    functions = {operation.name: function_of(operation) for operation in ending}
    changing = [(at, function) for at, function in functions.items() if function != "linear"]
    kinds = [function for _, function in changing]
    if head is None or kinds not in ([], ["log_softmax"], ["softmax"]):
        found = ", ".join(f"{at} ({function})" for at, function in changing) or "another layer"
        raise ConfigError(
            f"{name} must end in logits or a softmax, of which accuracy and cross-entropy are known. "
            f"It ends in {found}."
        )
    if model.outputs[0].shape[-1] == 1:
        raise ConfigError(f"{name} must tell classes apart, and has one output.")
    if kinds != ["softmax"]:  # softmax of either gives the probabilities
        return model
    if head.path or head.dense.quantization_mode is not None:
        # The softmax of these is the probabilities again; only zero has no logarithm.
        tiny = keras.ops.maximum(keras.ops.cast(model.outputs[0], "float32"), 1e-37)
        logits = keras.ops.log(tiny)
    else:
        config = {**head.dense.get_config(), "activation": "linear"}
        linear = type(head.dense).from_config(config)
        logits = linear(head.features)
        linear.set_weights(head.dense.get_weights())
    return keras.Model(model.inputs[0], logits, name=model.name)


def precision_of(model: keras.Model) -> str:
    """The dtype policy that most layers with weights have, by name."""
    layers = flatten_layers(model)
    names = collections.Counter(layer.dtype_policy.name for layer in layers if layer.weights)
    return names.most_common(1)[0][0]


def rebuilt(model: keras.Model, image_size: int, policy: str, name: str) -> keras.Model:
    """The same graph with the same weights, for other images or in another precision.

    Args:
        model: Takes square images, or images of any size; may be returned itself.
        image_size: Height and width of the images, in pixels.
        policy: Name of a dtype policy, for the layers that have the model's own. The classifier stays
            in its precision.
        name: The model's name in messages.

    Raises:
        ConfigError: If there is no such model, as where a layer is for images of one size.
    """
    own = precision_of(model)
    if policy != own and not own.startswith(("float", "mixed_")):
        raise ConfigError(f"{name} is quantized ({own}): --precision must be auto.")
    try:
        if any(side not in (None, image_size) for side in sides_of(model)):
            model = resized(model, image_size, image_size)
        if policy == own:
            return model
        config = _with_policy(model.get_config(), own, policy, _names_of_end(model))
        other = type(model).from_config(config)
        copy_weights(model, other)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigError(f"{name} cannot be evaluated so: {one_line(error)}") from None
    return other


def _names_of_end(model: keras.Model) -> set[str]:
    head = structure_of(model).head
    return set() if head is None else {op.name for op in (head.dense, *head.behind)}


def _with_policy(config: Any, old: str, new: str, last: set[str]) -> Any:
    """The config of a model, in all its depths, with another dtype policy.

    Args:
        config: Of the model.
        old, new: Names of dtype policies.
        last: Names of the layers whose policies stay.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(_with_policy(each, old, new, last) for each in config)
    if not isinstance(config, dict) or config.get("name") in last:
        return config
    if {"class_name": "DTypePolicy", "config": {"name": old}}.items() <= config.items():
        return {**config, "config": {"name": new}}
    return {key: _with_policy(value, old, new, last) for key, value in config.items()}
