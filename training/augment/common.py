"""Keys of random draws, and what several operations share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

AUGMENTERS = ("timm", "keras_cv", "none")

# What is folded into a key for each random step; changing a number changes every run.
CROP, FLIP, RAND_AUGMENT, ERASE, ERASE_NOISE, MIX, SHIFT = range(7)

TRIES = 10  # for a box that fits


def key(seed: int, *numbers: Any) -> tf.Tensor:
    """The key of an image or a batch.

    Args:
        seed: the run's.
        numbers: integers, Python's or tensors, that tell it from all others: for example epoch and
            place in the epoch.

    Returns:
        int64 (2,).
    """
    folded = tf.stack([tf.cast(seed, tf.int64), tf.constant(0, tf.int64)])
    for number in numbers:
        folded = tf.random.fold_in(folded, tf.cast(number, tf.int64))
    return folded


def step_key(key: tf.Tensor, step: int) -> tf.Tensor:
    return tf.random.fold_in(tf.cast(key, tf.int64), tf.constant(step, tf.int64))


def uniform(key: tf.Tensor, step: int, shape: Sequence[int]) -> tf.Tensor:
    """float32 from 0 to 1, 1 excluded."""
    return tf.random.stateless_uniform(shape, step_key(key, step))


def in_box(shape, top, left, height, width):
    """bool (image height, image width * channels): whether a value is in the box."""
    y = tf.range(shape[0])[:, tf.newaxis]
    x = tf.repeat(tf.range(shape[1]), shape[2])
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


def check_augmenter(augmenter: str) -> None:
    if augmenter not in AUGMENTERS:
        raise ValueError(
            f"`augmenter` must be one of {', '.join(AUGMENTERS)}. Received {augmenter!r}."
        )
