"""A small classifier that is exported, and what Keras answers with it."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

import keras_cvt
from keras_cvt.cli import main

LABELS = ("china", "flower", "bird", "müll", "cat")
SIZES = {"224": (224, 224), "96x160": (96, 160)}
STAGES = (
    keras_cvt.StageConfig(16, depth=1, num_heads=1, patch_size=7, patch_stride=4, patch_padding=2),
    keras_cvt.StageConfig(32, depth=2, num_heads=2, class_token=True),
)
# For what does not depend on the stages.
ONE_BLOCK = (dataclasses.replace(STAGES[1], depth=1),)


def small(size=(224, 224), stages=STAGES, **options) -> keras.Model:
    """A small classifier with random weights, whose answers differ from image to image."""
    keras.utils.set_random_seed(1)
    model = keras_cvt.CvT(stages, classes=len(LABELS), input_shape=(*size, 3), **options)
    for variable in model.trainable_variables:
        if variable.path.endswith("kernel"):
            variable.assign(variable * 4)
    return model


def run(folder, format, output, *more) -> int:
    arguments = ["export", "--model", folder / "small.keras", "--labels", folder / "labels.txt"]
    return main([str(x) for x in [*arguments, "--format", format, "--output", output, *more]])


def pictures(photos, size):
    return np.stack(
        [keras_cvt.preprocess_input(keras_cvt.load_image(photo, size)) for photo in photos]
    )


def keras_says(images):
    model = small(images.shape[1:3])
    return keras.ops.convert_to_numpy(model(images, training=False))
