"""Choosing the devices, and making a model right for several of them.

Keras' own layers are not right for several replicas in two ways, which `prepare` mends: the
statistics of BatchNormalization are each replica's own, and random masks are the same on all.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

import keras_cvt
from training.config import Config, ConfigError


def choose(config: Config) -> tf.distribute.Strategy:
    """The strategy for this machine that the config asks for.

    To be called before TensorFlow has used the CPU, which can't be split afterwards.

    Raises:
        ConfigError: if the CPU can't be split any more, or the batch can't be shared equally.
    """
    if config.logical_cpus > 1:
        _split_cpu(config.logical_cpus)
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    if config.strategy == "mirrored" or (config.strategy == "auto" and len(gpus) > 1):
        strategy = tf.distribute.MirroredStrategy(gpus or cpus)
    else:
        strategy = tf.distribute.OneDeviceStrategy((gpus or cpus)[0])
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % replicas:
        raise ConfigError(
            f"`batch_size` must be a multiple of the number of devices, {replicas}. Received "
            f"{config.batch_size}."
        )
    return strategy


def _split_cpu(parts: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * parts
        )
    except RuntimeError:  # it is in use, as it is in a second run in one process
        if len(tf.config.list_logical_devices("CPU")) != parts:
            raise ConfigError(
                f"`logical_cpus`: the CPU is in use already, and can't be split into {parts}."
            ) from None


def describe(strategy: tf.distribute.Strategy) -> str:
    """Such as "MirroredStrategy on 2 devices: CPU:0, CPU:1"."""
    devices = [d.split("device:")[-1] for d in strategy.extended.worker_devices]
    s = "" if len(devices) == 1 else "s"
    return f"{type(strategy).__name__} on {len(devices)} device{s}: {', '.join(devices)}"


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
    for layer in every_layer(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
        elif isinstance(layer, keras_cvt.DropPath):
            layer.__class__ = GlobalDropPath
        elif _draws(layer):
            layer.seed_generator.__class__ = ReplicaSeedGenerator


def every_layer(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model and those inside of layers, always in the same order."""
    return model._flatten_layers()  # Keras has it under no public name


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """Those of all layers, in the order of the layers."""
    return [layer.seed_generator for layer in every_layer(model) if _draws(layer)]


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
        return mask[first : first + samples]


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
