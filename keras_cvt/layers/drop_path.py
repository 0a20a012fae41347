"""Stochastic depth."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_cvt._validation import check_rate
from keras_cvt.layers.common import serializable


@serializable
class DropPath(keras.layers.Layer):
    """Stochastic depth, per sample: in training, whole samples of a residual branch become zero.

    Each sample is kept with probability `1 - rate` and then divided by it. Several tensors given
    as a list are parts of one branch: a sample is dropped in all of them or in none.

    Args:
        rate: probability of dropping a sample, in [0, 1).
        seed: integer, or None for a random one.

    Call arguments:
        inputs: a tensor (batch, ...) or a list of them.
        training: whether to drop; otherwise the inputs are returned.

    Source: official `Block.drop_path` (timm's DropPath); Huang et al. 2016.
    """

    def __init__(self, rate: float = 0.0, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)
        self.seed = seed
        if self.rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs, training=None):
        if not training or self.rate == 0:
            return inputs
        tensors = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        mask = self.draw_mask(ops.shape(tensors[0])[0])
        outputs = [x * ops.reshape(mask, (-1,) + (1,) * (len(x.shape) - 1)) for x in tensors]
        return outputs if isinstance(inputs, (list, tuple)) else outputs[0]

    def draw_mask(self, samples: Any) -> Any:
        """What to multiply each of so many samples with: 0 or 1 / (1 - rate), (samples,)."""
        ones = ops.ones((samples,), dtype=self.compute_dtype)
        return keras.random.dropout(ones, self.rate, seed=self.seed_generator)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
