"""timm's RandAugment."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf

from keras_cvt._backend import xla_on_host
from keras_cvt.images.preprocessing import MEAN
from training.augment.keys import RAND_AUGMENT, step_key, uniform
from training.augment.layout import to_uint8
from training.augment.operations import OPERATIONS, apply_operation


def rand_augment(
    image: tf.Tensor,
    key: tf.Tensor,
    *,
    mean: Sequence[float] = MEAN,
    layers: int = 2,
    probability: float = 0.5,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
) -> tf.Tensor:
    """Applies timm's RandAugment with increasing severities: by default `rand-m9-mstd0.5-inc1`.

    Args:
        image: RGB (height, width, 3), uint8 or float from 0 to 255.
        key: Key of the draws, int64 (2,).
        mean: Mean of the pixels divided by 255. As a color, it fills what comes from outside.
        layers: How many of the operations are drawn, uniformly, with replacement. Defaults to 2.
        probability: Probability of applying each that was drawn. Defaults to 0.5.
        magnitude, magnitude_std: Mean and standard deviation of the normal distribution that each
            magnitude is drawn from, before it is clipped to [0, 10]. Default to 9 and 0.5.

    Returns:
        uint8, as large as `image`.
    """
    image = to_uint8(tf.convert_to_tensor(image))
    fill = tuple(min(255, round(255 * value)) for value in mean)
    names, magnitudes, signs = _rand_augment_draws(
        key, layers, probability, magnitude, magnitude_std
    )
    for layer in range(layers):
        branches = [
            # Bound as defaults: the loop's variables change.
            lambda name=name, image=image, layer=layer: _operation(
                name,
                fill,
                name in _COMPILED and image.shape.is_fully_defined() and xla_on_host(),
            )(image, magnitudes[layer], signs[layer])
            for name in OPERATIONS
        ]
        branches.append(lambda image=image: tf.identity(image))
        # A switch, unlike a selection among all results, calculates only the one that was drawn.
        image = tf.ensure_shape(tf.switch_case(names[layer], branches), image.shape)
    return image


# XLA makes loops of it that take a sixth of the time. The others gain nothing, or lose. It compiles
# anew for each size of images, so theirs must be known.
_COMPILED = ("Rotate",)


@functools.cache
def _operation(name, fill, compiled):
    """A function in the graph, for all layers: TensorFlow visits each node of branches not taken."""

    def operation(image, magnitude, sign):
        return apply_operation(name, image, magnitude, sign, fill)

    options = (
        {"jit_compile": True} if compiled else {"experimental_attributes": {"_noinline": True}}
    )
    return tf.function(operation, autograph=False, **options)


def _rand_augment_draws(key, layers, probability, magnitude, magnitude_std):
    """For each layer: number of the operation (their count: none), magnitude, and sign."""
    operation, applied, sign = tf.unstack(uniform(key, RAND_AUGMENT, [3, layers]))
    count = len(OPERATIONS)
    number = tf.where(applied < probability, tf.cast(operation * count, tf.int32), count)
    # A key of their own: not the bits that the uniform numbers were made of.
    normal_key = step_key(step_key(key, RAND_AUGMENT), 0)
    magnitudes = tf.random.stateless_normal([layers], normal_key, magnitude, magnitude_std)
    return number, tf.clip_by_value(magnitudes, 0.0, 10.0), tf.where(sign < 0.5, 1.0, -1.0)
