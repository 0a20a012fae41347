"""The model of a file, as it is: what its output means, and the same graph for other images."""

from __future__ import annotations

import collections
from typing import Any

import keras

from training import _internal
from training.config import ConfigError

_LOGITS = ("linear", "log_softmax")  # softmax of either gives the probabilities
_PASSING = (keras.layers.Dropout, keras.layers.Identity)


def with_logits(model: keras.Model, name: str) -> keras.Model:
    """The model with logits for outputs, of which the loss is more exact than of probabilities.

    Args:
        model: A classifier that ends in logits or in a softmax: a layer's activation, or a `Softmax`.
            The result shares its layers.
        name: The model's name in messages.

    Raises:
        ConfigError: If it ends in something else, whose loss is not the cross-entropy of classes.
    """
    last, is_inside = _last_operation(model)
    activation = getattr(last, "activation", None)
    if activation in map(keras.activations.get, _LOGITS):
        return model
    if activation is not keras.activations.softmax and not isinstance(last, keras.layers.Softmax):
        ending = last.name + (f" ({activation.__name__})" if activation is not None else "")
        raise ConfigError(
            f"{name} must end in logits or a softmax, of which accuracy and cross-entropy are known. "
            f"It ends in {ending}."
        )
    if activation is not None and not is_inside and _internal.calls_of(last) == 1:
        linear = type(last).from_config({**last.get_config(), "activation": "linear"})
        logits = linear(last.input)
        linear.set_weights(last.get_weights())
    else:
        # The softmax of these is the probabilities again; only zero has no logarithm.
        tiny = keras.ops.maximum(keras.ops.cast(model.outputs[0], "float32"), 1e-37)
        logits = keras.ops.log(tiny)
    return keras.Model(model.inputs[0], logits, name=model.name)


def _last_operation(model: keras.Model) -> tuple[Any, bool]:
    """What makes the model's output, past what only passes it on; and whether a nested model has it."""
    tensor, is_inside = model.outputs[0], False
    while True:
        operation = _internal.producer(tensor)
        if isinstance(operation, keras.Model):
            tensor, is_inside = operation.outputs[0], True
        elif isinstance(operation, _PASSING) or (
            isinstance(operation, keras.layers.Activation)
            and operation.activation is keras.activations.linear
        ):
            tensor = operation.input
        else:
            return operation, is_inside


def precision_of(model: keras.Model) -> str:
    """The dtype policy that most layers with weights have, by name."""
    layers = _internal.flatten_layers(model)
    names = collections.Counter(layer.dtype_policy.name for layer in layers if layer.weights)
    return names.most_common(1)[0][0]


def rebuilt(model: keras.Model, image_size: int, policy: str, name: str) -> keras.Model:
    """The same graph with the same weights, for other images or in another precision.

    Args:
        model: Takes square images, or images of any size; may be returned itself.
        image_size: Height and width of the images, in pixels.
        policy: Name of a dtype policy, for the layers that have the model's own. The last layer stays
            in its precision.
        name: The model's name in messages.

    Raises:
        ConfigError: If there is no such model, as where a layer is for images of one size.
    """
    own, sides = precision_of(model), tuple(model.inputs[0].shape[1:3])
    fits = all(side in (None, image_size) for side in sides)
    if fits and policy == own:
        return model
    if policy != own and not own.startswith(("float", "mixed_")):
        raise ConfigError(f"{name} is quantized ({own}): --precision must be auto.")
    change = _Change(
        own, policy, None if fits else image_size, _internal.producer(model.outputs[0]).name
    )
    try:
        other = type(model).from_config(change.of(model.get_config()))
        other.set_weights(model.get_weights())
    except (ValueError, TypeError, NotImplementedError) as error:
        what = f"images of {image_size}x{image_size} pixels" if not fits else f"precision {policy}"
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name} cannot be used for {what}: {reason}") from None
    return other


class _Change:
    """Changes the config of a model, in all its depths.

    Args:
        old, new: Names of dtype policies.
        image_size: Of the inputs; None: theirs stay.
        last: Name of the layer whose policy stays.
    """

    def __init__(self, old: str, new: str, image_size: int | None, last: str):
        self._policy = {"class_name": "DTypePolicy", "config": {"name": old}}
        self._new, self._size, self._last = new, image_size, last

    def of(self, config: Any) -> Any:
        if isinstance(config, (list, tuple)):
            return type(config)(map(self.of, config))
        if not isinstance(config, dict) or config.get("name") == self._last:
            return config
        if self._policy.items() <= config.items():
            return {**config, "config": {"name": self._new}}
        config = {key: self.of(value) for key, value in config.items()}
        if self._size is not None:
            config.pop("build_config", None)  # layers are built anew, by their first call
            for key in ("batch_shape", "build_input_shape"):
                if len(config.get(key) or ()) == 4:
                    batch, _, _, channels = config[key]
                    config[key] = (batch, self._size, self._size, channels)
        return config
