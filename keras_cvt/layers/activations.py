"""Activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_cvt.layers.common import serializable


@serializable
def quick_gelu(x: Any) -> Any:
    """QuickGELU, `x * sigmoid(1.702 * x)`: the activation that the published weights were trained with.

    (Written through SiLU, TensorFlow's gradient would compute the sigmoid once more.)

    Args:
        x: floating point tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.
    """
    return ops.multiply(x, ops.sigmoid(1.702 * x))


def get_activation(identifier: str | dict | Callable | None) -> Callable:
    """`keras.activations.get`, which also knows the name "quick_gelu"."""
    if identifier == "quick_gelu":
        return quick_gelu
    return keras.activations.get(identifier)
