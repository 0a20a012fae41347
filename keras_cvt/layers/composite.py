"""Layers made of layers, and what their configs say of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_cvt._backend import xla_on_host
from keras_cvt._keras_internal import sublayers


class Composite(keras.layers.Layer):
    """A layer that makes other layers, and brings them back from its config as they were.

    Keras stores one `trainable` flag and one dtype policy for a layer. Where a sublayer has been frozen
    by itself, or quantized, the config needs more. A subclass makes each of its sublayers with
    `**self.sublayer(name)`, in `__init__` or in `build`, and keeps the rest to this class.

    Args:
        sublayers_trainable: The flags of those sublayers that differ from the layer around them, by
            path, such as `{"attn/conv_proj_q/bn": False}`. Comes from configs; to freeze a sublayer,
            set its `trainable`.
        sublayers_dtype: The dtype policies of those sublayers that `quantize` has changed, by path.
            Comes from configs, too.
    """

    def __init__(
        self,
        sublayers_trainable: Mapping[str, bool] | None = None,
        sublayers_dtype: Mapping[str, Any] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._given_flags = dict(sublayers_trainable or {})
        self._given_policies = {
            path: keras.dtype_policies.get(policy)
            for path, policy in (sublayers_dtype or {}).items()
        }

    def sublayer(self, name: str, **options: Any) -> dict[str, Any]:
        """The arguments that every sublayer takes: name, dtype policy, trainable flags; and options."""
        inside = {
            argument: {
                path.removeprefix(f"{name}/"): value
                for path, value in given.items()
                if path.startswith(f"{name}/")
            }
            for argument, given in (
                ("sublayers_trainable", self._given_flags),
                ("sublayers_dtype", self._given_policies),
            )
        }
        return {
            "name": name,
            "dtype": self._given_policies.get(name, self.dtype_policy),
            "trainable": self._given_flags.get(name, self.trainable),
            **{argument: given for argument, given in inside.items() if given},
            **options,
        }

    def __setattr__(self, name: str, value: Any) -> None:
        # On TensorFlow, Keras passes over a value that is there already: `trainable = True` would
        # leave frozen what has been frozen below.
        if name == "trainable":
            type(self).trainable.fset(self, value)
        else:
            super().__setattr__(name, value)

    @property
    def trainable(self) -> bool:
        """Whether the layer is trained. Setting it sets the flags of all sublayers."""
        return super().trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._given_flags = {}  # of sublayers that `build` has still to make
        keras.layers.Layer.trainable.fset(self, value)

    @property
    def supports_jit(self) -> bool:
        """Whether `fit` and `predict` may compile with XLA. TensorFlow's TPU wheel can't on its host.

        Keras asks each layer, where `jit_compile` is "auto".
        """
        return self._supports_jit and (keras.backend.backend() != "tensorflow" or xla_on_host())

    @supports_jit.setter
    def supports_jit(self, value: bool) -> None:
        self._supports_jit = value

    def get_config(self) -> dict[str, Any]:
        more = {
            "sublayers_trainable": _differing_flags(self),
            "sublayers_dtype": _quantized_policies(self),
        }
        return {**super().get_config(), **{key: value for key, value in more.items() if value}}


def _differing_flags(layer: keras.Layer) -> dict[str, bool]:
    """The flags of sublayers, at any depth, that differ from the layer around them, by path."""
    flags = {}
    made = sublayers(layer)
    if isinstance(layer, Composite):
        names = {sublayer.name for sublayer in made}
        given = layer._given_flags.items()
        flags = {path: flag for path, flag in given if path.partition("/")[0] not in names}
    for sublayer in made:
        if sublayer.trainable != layer.trainable:
            flags[sublayer.name] = sublayer.trainable
        for path, flag in _differing_flags(sublayer).items():
            flags[f"{sublayer.name}/{path}"] = flag
    return flags


def _quantized_policies(layer: keras.Layer) -> dict[str, Any]:
    """The dtype policies of quantized sublayers, at any depth, by path."""
    policies = {}
    for sublayer in sublayers(layer):
        if sublayer.quantization_mode is not None:
            policies[sublayer.name] = keras.dtype_policies.serialize(sublayer.dtype_policy)
        for path, policy in _quantized_policies(sublayer).items():
            policies[f"{sublayer.name}/{path}"] = policy
    return policies
