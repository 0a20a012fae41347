"""A CvT that is small enough for any test, and images for it."""

from __future__ import annotations

import numpy as np

import keras_cvt
from keras_cvt import StageConfig

TINY = (
    StageConfig(8, 1, 1, patch_size=7, patch_stride=4, patch_padding=2),
    StageConfig(12, 1, 3),
    StageConfig(16, 2, 2, class_token=True, drop_path_rate=0.1),
)


def tiny(**options):
    return keras_cvt.CvT(TINY, **{"classes": 5, "input_shape": (None, None, 3), **options})


def images(*size, seed=0):
    return np.random.default_rng(seed).normal(size=(2, *size, 3)).astype("float32")
