"""keras-cv's augmentation."""

from __future__ import annotations

import tensorflow as tf


def _keras_cv_layers():
    try:
        from keras_cv import layers
    except ImportError as error:
        raise ImportError(
            'augmenter="keras_cv" needs keras-cv, which can\'t be imported here. '
            "`pip install keras-cv` installs it."
        ) from error
    return layers


def keras_cv_rand_augment():
    return _keras_cv_layers().RandAugment(
        value_range=(0, 255),
        augmentations_per_image=2,
        magnitude=0.9,
        magnitude_stddev=0.05,
        rate=0.5,
    )


def keras_cv_mixers(mixup, cutmix):
    layers = _keras_cv_layers()
    return layers.MixUp(mixup or 1.0), layers.CutMix(cutmix or 1.0)


def keras_cv_mix(layer, images, labels):
    mixed = layer({"images": images, "labels": labels}, training=True)
    return tf.cast(mixed["images"], images.dtype), tf.cast(mixed["labels"], labels.dtype)
