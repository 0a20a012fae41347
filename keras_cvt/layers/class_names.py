"""The layer that holds the names of a classifier's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_cvt._validation import check_class_names
from keras_cvt.layers.common import serializable


@serializable
class ClassNames(keras.layers.Identity):
    """Holds the names of a classifier's classes, and returns its input as it is.

    The names are part of the layer's config, so they stay with the model when it is saved, loaded,
    cloned, quantized or deployed, by Keras' own means too. The layer has no weights. It does not cast
    its input either, whatever its dtype policy.

    Args:
        class_names: The name of each class, in the order of the model's outputs.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If the names are not what `keras_cvt.with_class_names` takes; when the layer is
            called, if its input has another number of classes.

    Example:

    ```python
    scores = keras.layers.Dense(2, activation="softmax")(backbone.output)
    model = keras.Model(backbone.input, keras_cvt.ClassNames(["cat", "dog"])(scores))
    ```
    """

    def __init__(self, class_names: Sequence[str], **kwargs: Any):
        self.class_names = check_class_names(class_names)
        super().__init__(**{**kwargs, "autocast": False})

    def call(self, inputs):
        self._check(inputs.shape)
        return inputs

    def compute_output_spec(self, inputs):
        self._check(inputs.shape)
        return super().compute_output_spec(inputs)

    def _check(self, shape: tuple[int | None, ...]) -> None:
        if shape[-1] != len(self.class_names):
            raise ValueError(
                f"There must be a class name for each of the {shape[-1]} outputs. Received "
                f"{len(self.class_names)} names."
            )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "class_names": list(self.class_names)}
