"""The devices of a run."""

from __future__ import annotations

import tensorflow as tf

from training import distribute
from training.config import Config


def devices_for(config: Config) -> tf.distribute.Strategy:
    """The strategy that a run asks for; to be called before TensorFlow uses the devices.

    Raises:
        ConfigError: If there are no such devices, or they cannot share the run's batch equally.
    """
    strategy = distribute.choose(config.run.strategy, config.run.logical_cpus)
    distribute.check_batch(
        strategy,
        config.optimization.batch_size,
        config.optimization.accumulation,
        config.run.jit_compile,
    )
    return strategy


def policy_for(config: Config) -> str:
    """The dtype policy that a run asks for, on these devices."""
    return distribute.policy(config.run.precision, tpu=config.run.strategy == "tpu")
