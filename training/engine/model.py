"""A run's model."""

from __future__ import annotations

from typing import Any

import keras

import keras_cvt
from keras_cvt import models
from training.config import CUSTOM, INITS, Config, ConfigError


def build_model(
    config: Config, images: Any, activation: str | None = None, dtype: str = "float32"
) -> keras.Model:
    """The run's CvT, with its initial weights.

    Args:
        images: A `data.RunData`, which has the images' channels and the class names.
        activation: "softmax", or None for logits.
        dtype: A dtype policy of Keras.

    Returns:
        A `keras.Model` from float32 (batch, height, width, channels) to (batch, classes).

    Raises:
        ConfigError: If there is no such CvT, or its weights cannot be had.
    """
    model = config.model
    options = {
        "input_shape": (config.data.image_size, config.data.image_size, images.channels),
        "weights": model.weights,
        "classes": len(images.class_names),
        "classifier_activation": activation,
        "recompute": model.recompute,
        "dtype": dtype,
    }
    if INITS[model.init] is not None:
        options["kernel_initializer"] = INITS[model.init]
    try:
        if model.variant == CUSTOM or model.stages:
            return keras_cvt.CvT(model.architecture(), **options)
        # By its name it finds the weights that are published for it.
        if model.drop_path_rate is not None:
            options["drop_path_rate"] = model.drop_path_rate
        return models.constructor(model.variant)(**options)
    except (ValueError, OSError) as error:
        raise ConfigError(f"The model can't be made. {error}") from error
