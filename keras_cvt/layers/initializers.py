"""Initial weights: the official code's."""

from __future__ import annotations

from typing import Any

import keras


def linear_initializer() -> keras.initializers.Initializer:
    # The official code truncates its normal distribution of deviation 0.02 at -2 and 2, a hundred
    # deviations away: it is a normal distribution. Keras' TruncatedNormal cuts at two deviations.
    return keras.initializers.RandomNormal(stddev=0.02)


def fresh_initializer(initializer: str | dict | None) -> keras.initializers.Initializer:
    """A new initializer for each weight: one object gives the same numbers each time it is called."""
    return linear_initializer() if initializer is None else keras.initializers.get(initializer)


def serialized_initializer(initializer: Any) -> str | dict | None:
    if isinstance(initializer, keras.initializers.Initializer):
        return keras.initializers.serialize(initializer)
    return initializer


def torch_uniform(fan_in: int) -> keras.initializers.Initializer:
    # torch's default, for kernels and biases, where the official code sets no other. The bound is
    # given, not left to VarianceScaling, which counts a depthwise kernel's fan-in over all channels.
    bound = fan_in**-0.5
    return keras.initializers.RandomUniform(-bound, bound)
