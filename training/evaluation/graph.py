"""The model of a file, as it is: what goes in, what comes out, and the same graph for other images."""

from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np

from keras_cvt._keras_internal import flatten_layers
from keras_cvt.structure import structure_of
from training.config import ConfigError

_PASSING = (keras.layers.Dropout, keras.layers.Identity)
_NORMALIZING = (keras.layers.Rescaling, keras.layers.Normalization)
# What stands before a model and leaves the values of its images alone, at least in inference.
_KEEPING_VALUES = (
    *_PASSING,
    keras.layers.CenterCrop,
    keras.layers.GaussianNoise,
    keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
    keras.layers.RandomCrop,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
    keras.layers.Resizing,
    keras.layers.ZeroPadding2D,
)
_LARGEST = 20.0  # beyond this, what enters a CvT is not normalized


def takes_pixels(model: keras.Model, name: str) -> bool:
    """Whether a model is for pixels from 0 to 255, which it normalizes itself, or normalized images.

    Args:
        model: Has one CvT in it.
        name: The model's name in messages.

    Raises:
        ConfigError: If it is not known which, or if it is for pixels on another scale.
    """
    structure = structure_of(model)
    if not any(isinstance(operation, _NORMALIZING) for operation in structure.before):
        unknown = [op for op in structure.before if not isinstance(op, _KEEPING_VALUES)]
        if unknown:
            raise ConfigError(
                f"{name} must take normalized images, or normalize pixels by Rescaling or "
                f"Normalization. Before its CvT there is {unknown[0].name} "
                f"({type(unknown[0]).__name__})."
            )
        return False
    black = np.zeros((1, *(side or 64 for side in model.inputs[0].shape[1:])), "float32")
    entering = [structure.compute(values, structure.image) for values in (black, black + 255)]
    largest = max(float(np.abs(keras.ops.convert_to_numpy(x)).max()) for x in entering)
    if largest > _LARGEST:
        raise ConfigError(
            f"{name} must normalize pixels from 0 to 255. Its CvT sees values up to {largest:.3g}."
        )
    return True


def with_logits(model: keras.Model, name: str) -> keras.Model:
    """The model with logits for outputs, of which the loss is more exact than of probabilities.

    Args:
        model: A classifier with one CvT in it, that ends in a Dense and, if anything, a softmax: the
            Dense's own activation, an `Activation` or a `Softmax`. The result shares its layers.
        name: The model's name in messages.

    Raises:
        ConfigError: If it ends in something else, whose loss is not the cross-entropy of classes.
    """
    head = structure_of(model).head
    ending = [] if head is None else [head.dense, *head.behind]
    functions = {operation.name: _function(operation) for operation in ending}
    changing = [(at, function) for at, function in functions.items() if function != "linear"]
    kinds = [function for _, function in changing]
    if head is None or kinds not in ([], ["log_softmax"], ["softmax"]):
        found = ", ".join(f"{at} ({function})" for at, function in changing) or "another layer"
        raise ConfigError(
            f"{name} must end in logits or a softmax, of which accuracy and cross-entropy are known. "
            f"It ends in {found}."
        )
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


def _function(operation: Any) -> str:
    """What an operation does to each answer, as far as that is known: "linear" is nothing."""
    if isinstance(operation, _PASSING):
        return "linear"
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    activation = getattr(operation, "activation", None)
    return type(operation).__name__ if activation is None else activation.__name__


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
    own, sides = precision_of(model), tuple(model.inputs[0].shape[1:3])
    fits = all(side in (None, image_size) for side in sides)
    if fits and policy == own:
        return model
    if policy != own and not own.startswith(("float", "mixed_")):
        raise ConfigError(f"{name} is quantized ({own}): --precision must be auto.")
    change = _Change(own, policy, None if fits else image_size, _names_of_end(model))
    try:
        other = type(model).from_config(change.of(model.get_config()))
        other.set_weights(model.get_weights())
    except (ValueError, TypeError, NotImplementedError) as error:
        what = f"images of {image_size}x{image_size} pixels" if not fits else f"precision {policy}"
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name} cannot be used for {what}: {reason}") from None
    return other


def _names_of_end(model: keras.Model) -> set[str]:
    head = structure_of(model).head
    return set() if head is None else {op.name for op in (head.dense, *head.behind)}


class _Change:
    """Changes the config of a model, in all its depths.

    Args:
        old, new: Names of dtype policies.
        image_size: Of the inputs; None: theirs stay.
        last: Names of the layers whose policies stay.
    """

    def __init__(self, old: str, new: str, image_size: int | None, last: set[str]):
        self._policy = {"class_name": "DTypePolicy", "config": {"name": old}}
        self._new, self._size, self._last = new, image_size, last

    def of(self, config: Any) -> Any:
        if isinstance(config, (list, tuple)):
            return type(config)(map(self.of, config))
        if not isinstance(config, dict) or config.get("name") in self._last:
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
