"""The network whose weights all candidates share: one graph computes any of them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

import keras_cvt
from keras_cvt._keras_internal import run_graph, takes_training
from keras_cvt.architecture import conv_output_size
from keras_cvt.structure import structure_of
from training.search.space import Space


class SharedNetwork:
    """Computes what any candidate of a space computes, with the weights of the largest.

    Keys and values at every second place are those of a convolution of stride 2, and an MLP of half the
    width has the first half of the hidden units: so a candidate is the largest network with some keys
    and hidden units masked. The masks come from tensors, so one graph of static shapes serves all.

    In training, the statistics of BatchNorm are those of all places, which a candidate of its own would
    not see: they are taken anew before a candidate is evaluated.

    Args:
        cvt: Model of the space's largest stages.
        space: What the candidates are.
    """

    def __init__(self, cvt: keras.Model, space: Space):
        self._cvt = cvt
        self._tables = space.tables()
        stages = structure_of(cvt).stages
        # {block: {field: number of the choice}}
        self._choices: dict[keras.layers.Layer, dict[str, int]] = {}
        for number, choice in enumerate(space.choices):
            block = stages[choice.stage].blocks[choice.block]
            self._choices.setdefault(block, {})[choice.field] = number

    def __call__(self, images: tf.Tensor, candidate: tf.Tensor, training: bool) -> tf.Tensor:
        """What a candidate answers.

        Args:
            images: As the model takes them.
            candidate: int32 (choices,), a `Candidate`.
            training: Whether as in training.

        Returns:
            What the model returns.
        """
        settings = tf.gather(tf.constant(self._tables), candidate, batch_dims=1)

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if takes_training(operation):
                kwargs["training"] = training
            if operation in self._choices:
                kwargs |= self._masks(operation, args[0], settings)
            return operation(*args, **kwargs)

        return run_graph(self._cvt, images, call)

    def _masks(
        self, block: keras_cvt.CvTBlock, x: tf.Tensor, settings: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The masks with which a block computes a candidate's."""
        choices, masks = self._choices[block], {}
        if "stride_kv" in choices:
            attention = block.attn
            places = [
                conv_output_size(
                    size, attention.kernel_size, attention.strides_kv, attention.padding_kv
                )
                for size in x.shape[1:3]
            ]
            rows, columns = (
                tf.range(count) % settings[choices["stride_kv"]] == 0 for count in places
            )
            masks["key_mask"] = rows[:, tf.newaxis] & columns
        if "mlp_ratio" in choices:
            masks["hidden_mask"] = tf.range(block.mlp.hidden_dim) < settings[choices["mlp_ratio"]]
        return masks


def copy_weights(shared: keras.Model, candidate: keras.Model) -> None:
    """Gives a model of a candidate's stages its part of the weights of the largest network's.

    Args:
        shared: Model of the space's largest stages.
        candidate: Model of a candidate's, otherwise made alike.
    """
    for source, target in zip(shared.weights, candidate.weights, strict=True):
        value = keras.ops.convert_to_numpy(source)
        target.assign(value[tuple(slice(size) for size in target.shape)])
