"""What makes a model compute on several replicas what it computes on one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import keras_cvt
from keras_cvt._keras_internal import flatten_layers


def prepare(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Makes training on several replicas what it is on one; changes nothing for one replica.

    - BatchNormalization takes its statistics over the global batch.
    - DropPath draws the masks of the global batch, of which each replica uses its part: the very
      masks of a single device.
    - Dropout masks differ from replica to replica: as good as those of a single device, but
      not the same.

    Layers change in place, and their classes with them: save another model with these weights.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for layer in flatten_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
        elif isinstance(layer, keras_cvt.DropPath):
            layer.__class__ = GlobalDropPath
        elif _draws(layer):
            layer.seed_generator.__class__ = ReplicaSeedGenerator


def reseed(model: keras.Model, number: int) -> None:
    """Gives a model's layers other random draws than before, decided by `number`."""
    for seeds in seed_generators(model):
        state = keras.ops.convert_to_numpy(seeds.state)
        # The state is (seed, number of draws).
        seeds.state.assign(state + np.array([number * 7919, 0], state.dtype))


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """Those of all layers, in the order of the layers."""
    return [layer.seed_generator for layer in flatten_layers(model) if _draws(layer)]


def _draws(layer: keras.Layer) -> bool:
    return isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator)


class GlobalDropPath(keras_cvt.DropPath):
    """DropPath that drops the same samples of the global batch on any number of replicas."""

    def draw_mask(self, samples: Any) -> Any:
        replica = tf.distribute.get_replica_context()
        if replica is None:
            return super().draw_mask(samples)
        mask = super().draw_mask(samples * replica.num_replicas_in_sync)
        # A strategy gives the first replica the first rows of a batch, and so on.
        first = replica.replica_id_in_sync_group * samples
        # Unlike mask[first:...], it says that its length is known, as XLA needs it on TPUs.
        return ops.slice(mask, [first], [samples])


class ReplicaSeedGenerator(keras.random.SeedGenerator):
    """A seed generator whose seeds differ between replicas; the first has the usual ones."""

    def next(self, ordered: bool = True) -> Any:
        seed = super().next(ordered)
        replica = tf.distribute.get_replica_context()
        if replica is None:
            return seed
        # The state is (seed, number of draws): the number must stay, the seed may be any other.
        offset = ops.cast(replica.replica_id_in_sync_group, seed.dtype) * 1_000_003
        return seed + ops.stack([offset, ops.zeros_like(offset)])
