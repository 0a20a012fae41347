"""Layers made of layers, and what their configs say of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_cvt._backend import xla_on_host
from keras_cvt._keras_internal import sublayers
from keras_cvt.layers.quantization import with_quantization


class Composite(keras.layers.Layer):
    """A layer that makes other layers, and brings them back from its config as they were.

    Keras stores one `trainable` flag for a layer. Where a sublayer has been frozen by itself, or
    quantized, the config needs more. A subclass makes each of its sublayers with
    `**self.sublayer(name)`, in `__init__` or in `build`, and keeps the rest to this class.

    Args:
        sublayers_trainable: The flags of those sublayers that differ from the layer around them, by
            path, such as `{"attn/conv_proj_q/bn": False}`. Comes from configs; to freeze a sublayer,
            set its `trainable`.
    """

    def __init__(self, sublayers_trainable: Mapping[str, bool] | None = None, **kwargs):
        super().__init__(**kwargs)
        self._given_flags = dict(sublayers_trainable or {})

    def sublayer(self, name: str, **options: Any) -> dict[str, Any]:
        """The arguments that every sublayer takes: name, dtype policy, trainable flags; and options."""
        inside = {
            path.removeprefix(f"{name}/"): flag
            for path, flag in self._given_flags.items()
            if path.startswith(f"{name}/")
        }
        return {
            "name": name,
            "dtype": self.dtype_policy,
            "trainable": self._given_flags.get(name, self.trainable),
            **({"sublayers_trainable": inside} if inside else {}),
            **options,
        }

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
        config = with_quantization(self, super().get_config())
        flags = _differing_flags(self)
        return {**config, "sublayers_trainable": flags} if flags else config


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
