"""keras-cv's augmentation: the few things that the recipe takes from it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def rand_augment() -> Any:
    """Makes keras-cv's RandAugment, for images with values from 0 to 255.

    Raises:
        ImportError: If keras-cv is missing.
    """
    return _layers().RandAugment(
        value_range=(0, 255),
        augmentations_per_image=2,
        magnitude=0.9,
        magnitude_stddev=0.05,
        rate=0.5,
    )


def mixers(mixup: float, cutmix: float) -> tuple[Any, Any]:
    """Makes keras-cv's MixUp and CutMix, with these alphas.

    Raises:
        ImportError: If keras-cv is missing.
    """
    layers = _layers()
    return layers.MixUp(mixup or 1.0), layers.CutMix(cutmix or 1.0)


def mix(layer: Any, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes a batch with one of `mixers`."""
    mixed = layer({"images": images, "labels": labels}, training=True)
    return tf.cast(mixed["images"], images.dtype), tf.cast(mixed["labels"], labels.dtype)


def _layers() -> Any:
    try:
        from keras_cv import layers
    except ImportError as error:
        raise ImportError(
            'augmenter="keras_cv" needs keras-cv, which can\'t be imported here. '
            "`pip install keras-cv` installs it."
        ) from error
    return layers
