"""The official weights of a tiny model, and the files that hold them."""

from __future__ import annotations

import reference_models

import keras_cvt

TINY = reference_models.stages("tiny")


def tiny(**options):
    options = {"classes": 10, "classifier_activation": None, **options}
    return keras_cvt.CvT(TINY, input_shape=(None, None, 3), **options)


FILES = (
    "official.pth",
    "official.safetensors",
    "huggingface.safetensors",
    "model.keras",
    "model.weights.h5",
)
