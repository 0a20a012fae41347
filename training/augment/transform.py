"""The recipe for one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_cvt.images.graph import normalize
from keras_cvt.images.preprocessing import MEAN, STD
from training.augment import keras_cv
from training.augment.augmenters import check_augmenter
from training.augment.crop import crop_box, flip, shift
from training.augment.erasing import erase
from training.augment.keys import key
from training.augment.policy import rand_augment
from training.augment.resizing import resize


def train_transform(
    image_size: int = 224,
    seed: int = 0,
    *,
    crop: bool = True,
    augmenter: str = "timm",
    flip_probability: float = 0.5,
    erase_probability: float = 0.25,
    max_shift: int = 0,
    interpolation: str = "bicubic",
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Callable[[Any, tf.Tensor], tf.Tensor]:
    """Makes the function that augments one image by the recipe.

    Args:
        image_size: Height and width of the result, in pixels. Defaults to 224.
        seed: The run's. Defaults to 0.
        crop: False if the image is already what `crop_box` chose.
        augmenter: "timm": `rand_augment`; "keras_cv": keras-cv's RandAugment with the same number
            of operations, probability and magnitude; "none": neither.
        flip_probability: Probability of a horizontal flip. Defaults to 0.5.
        erase_probability: Probability of `erase`. Defaults to 0.25.
        max_shift: The `limit` of `shift`, in pixels. Defaults to 0.
        interpolation: That of `resize`. Defaults to "bicubic".
        mean, std: Of the pixels divided by 255, for each channel. Default to ImageNet's.

    Returns:
        A function of (index, image). `index` is an integer, or a vector of some, that distinguishes
        this view of an image from all others of the run; its key is `key(seed, *index)`. The image is
        of any size: (height, width, channels), uint8, or float from 0 to 255; RGB, or whatever `mean`
        and `std` are for if the augmenter is "none". The function's result is float32 (image_size,
        image_size, channels), normalized.

    Raises:
        ValueError: If the augmenter is unknown.
        ImportError: If keras-cv is asked for and missing.
    """
    check_augmenter(augmenter)
    keras_cv_augment = keras_cv.rand_augment() if augmenter == "keras_cv" else None

    def transform(index: Any, image: tf.Tensor) -> tf.Tensor:
        image_key = key(seed, *tf.unstack(tf.reshape(index, [-1])))
        if crop:
            shape = tf.shape(image)
            top, left, height, width = tf.unstack(crop_box(shape[0], shape[1], image_key))
            image = tf.slice(image, [top, left, 0], [height, width, len(mean)])
        image = flip(resize(image, image_size, interpolation), image_key, flip_probability)
        if max_shift:
            image = shift(image, image_key, max_shift)
        if augmenter == "timm":
            image = rand_augment(image, image_key, mean=mean)
        elif keras_cv_augment is not None:
            image = keras_cv_augment(tf.cast(image, tf.float32))
        image = tf.ensure_shape(normalize(image, mean, std), (image_size, image_size, len(mean)))
        return erase(image, image_key, erase_probability)

    return transform
