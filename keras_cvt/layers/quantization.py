"""Dtype policies of sublayers, which `quantize` may have changed one by one."""

from __future__ import annotations

from typing import Any

import keras

from keras_cvt._keras_internal import flatten_layers
from keras_cvt.layers.common import Shape


def with_quantization(layer: keras.Layer, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a layer that makes its own sublayers, which all take its dtype policy: with the
    policies of those that `quantize` has changed, so that a saved model is made anew as it was."""
    quantized = {
        sublayer.path: sublayer.dtype_policy
        for sublayer in flatten_layers(layer)[1:]
        if sublayer.quantization_mode is not None
    }
    if not quantized:
        return config
    policies = keras.dtype_policies.DTypePolicyMap(
        policy_of(layer, layer.path), policy_map=quantized
    )
    return {**config, "dtype": keras.dtype_policies.serialize(policies)}


def policy_of(layer: keras.Layer, path: str) -> keras.DTypePolicy:
    policy = layer.dtype_policy
    return policy[path] if isinstance(policy, keras.dtype_policies.DTypePolicyMap) else policy


def build_dense(layer: keras.Layer, dense: keras.layers.Dense, shape: Shape) -> None:
    # A Dense looks itself up in a map of policies when it is built, but not when it is saved.
    dense.dtype_policy = policy_of(layer, f"{layer.path}/{dense.name}")
    dense.build(shape)
