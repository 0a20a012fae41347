"""scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from training.data.sources.contents import Contents
from training.data.sources.source import Example, RandomAccess
from training.data.sources.splits import choose, usual_split

VALIDATION_SHARE = 0.2

SEED = 0  # not the run's: all runs are validated with the same images


def digits(part: str, split: str | None) -> RandomAccess:
    """1,797 digits, written by 43 people; ink is 255, paper 0.

    Source: scikit-learn's `load_digits`, the test part of UCI's "Optical Recognition of
    Handwritten Digits" (Alpaydin and Kaynak 1998).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, validation = train_test_split(
        np.arange(len(digits.target)),
        test_size=VALIDATION_SHARE,
        stratify=digits.target,
        random_state=SEED,
    )
    parts = {"train": train, "validation": validation}
    split = split or usual_split("digits", part, parts)
    chosen = choose("digits", split, {p: digits.target[rows] for p, rows in parts.items()})
    numbers = np.concatenate([parts[p][rows] for p, rows in chosen])

    images = tf.constant(np.rint(digits.images[numbers, :, :, np.newaxis] * 255 / 16), tf.uint8)
    labels = tf.constant(digits.target[numbers], tf.int64)
    names = tf.constant([f"digits:{number}" for number in numbers])

    def at(index: tf.Tensor) -> Example:
        return {"image": images[index], "labels": labels[index][tf.newaxis], "name": names[index]}

    return RandomAccess(
        count=len(numbers),
        class_names=tuple(str(name) for name in digits.target_names),
        split=split,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        at=at,
        contents=Contents(
            lines=lambda: [f"digits:{number}".encode() for number in numbers],
            taken=lambda: {"digits": numbers},
        ),
    )
