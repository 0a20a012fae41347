"""Keys of random draws. Every draw follows from an image's key and the number of its step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# What is folded into a key for each random step; changing a number changes every run.
CROP, FLIP, RAND_AUGMENT, ERASE, ERASE_NOISE, MIX, SHIFT = range(7)


def key(seed: int, *numbers: Any) -> tf.Tensor:
    """Derives the key of an image or a batch.

    Args:
        seed: The run's.
        numbers: Integers, Python's or tensors, that tell it from all others: for example epoch and
            place in the epoch.

    Returns:
        int64 (2,).
    """
    folded = tf.stack([tf.cast(seed, tf.int64), tf.constant(0, tf.int64)])
    for number in numbers:
        folded = tf.random.fold_in(folded, tf.cast(number, tf.int64))
    return folded


def step_key(key: tf.Tensor, step: int) -> tf.Tensor:
    """Derives the key of one random step."""
    return tf.random.fold_in(tf.cast(key, tf.int64), tf.constant(step, tf.int64))


def uniform(key: tf.Tensor, step: int, shape: Sequence[int]) -> tf.Tensor:
    """Draws float32 from 0 to 1, 1 excluded, for one random step."""
    return tf.random.stateless_uniform(shape, step_key(key, step))
