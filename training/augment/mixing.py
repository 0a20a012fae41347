"""Mixup and cutmix of a batch."""

from __future__ import annotations

import tensorflow as tf

from keras_cvt._backend import xla_on_host
from training.augment import keras_cv
from training.augment.augmenters import check_augmenter
from training.augment.boxes import in_box
from training.augment.keys import MIX, step_key, uniform


def mix(
    images: tf.Tensor,
    labels: tf.Tensor,
    key: tf.Tensor,
    *,
    mixup: float = 0.8,
    cutmix: float = 1.0,
    cutmix_probability: float = 0.5,
    smoothing: float = 0.1,
    augmenter: str = "timm",
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mixes each image of a batch, and its label, with the one at the same place from the end.

    Either mixup, which blends all pixels lambda to 1 - lambda, or cutmix, which puts a box of the
    partner into the image; all images of a batch are mixed the same way. Source: timm's `Mixup`,
    mode "batch", at version 0.3.2, whose cutmix boxes have even sizes (in 1.0.31 they may be one
    pixel larger).

    Args:
        images: float (batch, height, width, channels).
        labels: float (batch, classes), each summing to 1.
        key: Key of the batch's draws, int64 (2,).
        mixup, cutmix: Alpha of the beta distribution of lambda; 0 for never. If both are 0, labels
            are only smoothed. Default to 0.8 and 1.
        cutmix_probability: Probability of cutmix where both are possible. Defaults to 0.5.
        smoothing: Share of each label that is spread over all classes. Defaults to 0.1.
        augmenter: "timm"; "keras_cv" for keras-cv's MixUp or CutMix instead; "none" to only smooth.

    Returns:
        Images and labels of the same types and shapes.

    Raises:
        ValueError: If the augmenter is unknown.
        ImportError: If keras-cv is asked for and missing.
    """
    check_augmenter(augmenter)
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    labels = labels * (1 - smoothing) + smoothing / labels.shape[-1]
    if augmenter == "none" or mixup == cutmix == 0:
        return images, labels
    if mixup == 0 or cutmix == 0:
        cutmix_probability = float(mixup == 0)
    which, y, x = tf.unstack(uniform(key, MIX, [3]))
    if augmenter == "keras_cv":
        by_mixup, by_cutmix = (
            lambda layer=layer: keras_cv.mix(layer, images, labels)
            for layer in keras_cv.mixers(mixup, cutmix)
        )
    else:
        of_known_shape = images.shape.is_fully_defined() and labels.shape.is_fully_defined()
        compiled = of_known_shape and xla_on_host()
        mix_up, cut = (_MIXUP, _CUTMIX) if compiled else (_mixup, _cutmix)
        by_mixup, by_cutmix = (
            lambda: mix_up(images, labels, _beta(key, mixup or 1.0)),
            lambda: cut(images, labels, _beta(key, cutmix or 1.0), y, x),
        )
    return tf.cond(which < cutmix_probability, by_cutmix, by_mixup)


def _beta(key, alpha):
    """A float32 scalar from the beta distribution with both parameters alpha."""
    gammas = tf.random.stateless_gamma([2], step_key(step_key(key, MIX), 0), alpha)
    return gammas[0] / (gammas[0] + gammas[1])


def _mix_rows(rows, keep):
    keep = tf.cast(keep, rows.dtype)
    return keep * rows + (1 - keep) * tf.reverse(rows, [0])


def _mixup(images, labels, keep):
    return _mix_rows(images, keep), _mix_rows(labels, keep)


def _cutmix(images, labels, keep, y, x):
    """Its box has the center (y, x), as shares of the sides, and is cut off at the edges."""
    shape = tf.shape(images)[1:]
    sides = tf.cast(shape[:2], tf.float32)
    half = tf.cast(sides * tf.sqrt(1 - keep), tf.int32) // 2
    center = tf.cast(sides * tf.stack([y, x]), tf.int32)
    start, end = tf.maximum(center - half, 0), tf.minimum(center + half, shape[:2])
    box = in_box(shape, *tf.unstack(start), *tf.unstack(end - start))
    rows = tf.reshape(images, [-1, shape[0], shape[1] * shape[2]])
    rows = tf.where(box, tf.reverse(rows, [0]), rows)
    # The labels' share is that of the real box.
    keep = 1 - tf.cast(tf.reduce_prod(end - start), tf.float32) / tf.reduce_prod(sides)
    return tf.reshape(rows, tf.shape(images)), _mix_rows(labels, keep)


# A batch is larger than the processor's caches: XLA goes through it once, in half of the time.
_MIXUP, _CUTMIX = (
    tf.function(function, autograph=False, jit_compile=True) for function in (_mixup, _cutmix)
)
