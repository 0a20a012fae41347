"""The recipe's augmentation, as stateless TensorFlow: the same key always gives the same image.

What CvT was trained with is timm 0.3.2 (which the official code pins) with
`rand-m9-mstd0.5-inc1`, as DeiT: random resized crop, flip, RandAugment, normalization, random
erasing, and per batch mixup or cutmix. timm leaves colour jitter out when it has a RandAugment
policy, so there is none. In a notebook:

    transform = augment.train_transform(image_size=224, seed=1)
    batches = examples.repeat().enumerate()  # (image, one-hot label); numbered over all epochs
    batches = batches.map(lambda i, xy: (transform(i, xy[0]), xy[1]), tf.data.AUTOTUNE)
    batches = batches.batch(64, drop_remainder=True).enumerate()
    batches = batches.map(lambda i, xy: augment.mix(*xy, augment.key(1, i)), tf.data.AUTOTUNE)
    model.fit(batches, steps_per_epoch=100, epochs=10)

A pipeline that decodes only the crop asks `crop_box` with the image's key first, and uses
`train_transform(..., crop=False)`: the result is the same, but for the crop's outermost pixels in
JPEGs with halved colour resolution.

Every random step draws from the key it is given and its own number, so that one key serves all
steps of an image, in any order and at any parallelism.

Images between the steps are uint8, rounded as Pillow does; `training/operations.py` says how
closely RandAugment's operations are Pillow's. Resizing differs from Pillow's by 0.1 to 0.2 gray
levels in the mean, see `resize`.

Instead, `augmenter="keras_cv"` takes keras-cv's RandAugment, MixUp and CutMix. They are not this
recipe. Of the fifteen operations they lack Invert, Posterize, Rotate and Sharpness, and have
SolarizeAdd and Solarize as one. At the same magnitude, 9 of 10, they shear by 0.9 (here 0.27), move
by up to 0.9 of the image's side (here by 0.41) and fill by reflection. MixUp and CutMix draw a
lambda and a partner for each image, and CutMix corrects lambda by the box before it is cut off at
the image's edge. Their draws have no keys but come from TensorFlow's global generator: such a run
can't be repeated or resumed exactly.

`python -m training.benchmark_augment` measures images per second on one core.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_cvt.imagenet import MEAN, STD
from training.operations import OPERATIONS, apply_operation, for_rows, in_rows

AUGMENTERS = ("timm", "keras_cv", "none")

# What is folded into a key for each random step; changing a number changes every run.
_CROP, _FLIP, _RAND_AUGMENT, _ERASE, _ERASE_NOISE, _MIX, _SHIFT = range(7)
_TRIES = 10  # for a box that fits


def key(seed: int, *numbers: Any) -> tf.Tensor:
    """The key of an image or a batch.

    Args:
        seed: the run's.
        numbers: integers, Python's or tensors, that tell it from all others: for example epoch and
            place in the epoch.

    Returns:
        int64 (2,).
    """
    folded = tf.stack([tf.cast(seed, tf.int64), tf.constant(0, tf.int64)])
    for number in numbers:
        folded = tf.random.fold_in(folded, tf.cast(number, tf.int64))
    return folded


def _step_key(key: tf.Tensor, step: int) -> tf.Tensor:
    return tf.random.fold_in(tf.cast(key, tf.int64), tf.constant(step, tf.int64))


def _uniform(key: tf.Tensor, step: int, shape: Sequence[int]) -> tf.Tensor:
    """float32 from 0 to 1, 1 excluded."""
    return tf.random.stateless_uniform(shape, _step_key(key, step))


# One image, from file to model


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
    """The recipe for one image.

    Args:
        image_size: height and width of the result.
        seed: the run's.
        crop: False if the image is already what `crop_box` chose.
        augmenter: "timm": `rand_augment`; "keras_cv": keras-cv's RandAugment with the same number
            of operations, probability and magnitude; "none": neither.
        flip_probability: of a mirrored image.
        erase_probability: of `erase`.
        max_shift: of `shift`.
        interpolation: of `resize`.
        mean, std: of the pixels divided by 255, for each channel.

    Returns:
        A function of (index, image). `index` is an integer, or a vector of some, that tells this
        view of an image from all others of the run; its key is `key(seed, *index)`. The image is
        of any size: (height, width, channels), uint8, or float from 0 to 255; RGB, or whatever `mean`
        and `std` are for if the augmenter is "none". The function's result is float32 (image_size,
        image_size, channels), normalized.

    Raises:
        ValueError: for an unknown augmenter.
        ImportError: if keras-cv is asked for and missing.
    """
    _check_augmenter(augmenter)
    keras_cv_augment = _keras_cv_rand_augment() if augmenter == "keras_cv" else None

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


def crop_box(
    height: Any,
    width: Any,
    key: tf.Tensor,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tf.Tensor:
    """The box of a random resized crop. Source: torchvision's and timm's `RandomResizedCrop`.

    Ten times an area and an aspect ratio are drawn (the ratio's logarithm uniformly); the first box
    that fits is put somewhere in the image. If none fits, it is the largest central box whose ratio
    is within bounds.

    Args:
        height, width: of the image; integers.
        key: int64 (2,).
        scale: bounds of the box's share of the image's area.
        ratio: bounds of width / height.

    Returns:
        int32 (4,): top, left, height, width, as `tf.io.decode_and_crop_jpeg` takes it.
    """
    image_height, image_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area, aspect, top, left = tf.unstack(_uniform(key, _CROP, [4, _TRIES]))
    area = (scale[0] + (scale[1] - scale[0]) * area) * image_height * image_width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + (high - low) * aspect)
    heights, widths = tf.round(tf.sqrt(area / aspect)), tf.round(tf.sqrt(area * aspect))
    tops = tf.floor(top * (image_height - heights + 1))
    lefts = tf.floor(left * (image_width - widths + 1))
    fits = (heights <= image_height) & (widths <= image_width) & (heights > 0) & (widths > 0)
    tried = tf.gather(tf.stack([tops, lefts, heights, widths], axis=1), tf.argmax(fits))

    central_height = tf.minimum(image_height, tf.round(image_width / ratio[0]))
    central_width = tf.minimum(image_width, tf.round(image_height * ratio[1]))
    top = (image_height - central_height) // 2
    left = (image_width - central_width) // 2
    central = tf.stack([top, left, central_height, central_width])
    return tf.cast(tf.where(tf.reduce_any(fits), tried, central), tf.int32)


def resize(image: tf.Tensor, size: Any, interpolation: str = "bicubic") -> tf.Tensor:
    """Resizes with antialiasing. If bicubic, it is Pillow's bicubic, but for the rounding.

    Pillow also rounds, and clips to 0 to 255, between its two passes, which here is done only at the
    end. Of photos resized to 224 pixels, 4 to 21 % of the values differ, nearly all by one (the most
    was 12, beside a hard edge), by 0.04 to 0.21 in the mean. TensorFlow's bicubic without antialiasing
    is another function: 5 in the mean, when photos are shrunk to half their size.

    Args:
        image: (height, width, channels), uint8 or float from 0 to 255.
        size: of the result: one integer for a square, or (height, width), which may be a tensor.
        interpolation: "bicubic" or "bilinear".

    Returns:
        uint8 (height, width, channels).
    """
    size = (size, size) if isinstance(size, int) else tf.unstack(size)
    known = [side if isinstance(side, int) else None for side in size]
    resized = _to_uint8(_resize(image, *size, interpolation))
    return tf.ensure_shape(resized, (*known, image.shape[2]))


def _resize(image, height, width, interpolation):
    """What `tf.image.resize` gives with antialias, in float32, up to rounding.

    That takes value by value three times as long as matrix products. But most weights of a product
    over a whole side were zero: eight rows of the result have their own few of the image.
    """
    rows, columns, channels = tf.unstack(tf.shape(image))
    # TensorFlow prepares a product for each new shape, which takes longer than the product: so there
    # must be few widths.
    padded = -(-columns // 32) * 32
    image = tf.pad(image, [[0, 0], [0, padded - columns], [0, 0]])
    places, weights = _resize_weights(rows, height, interpolation)
    image = tf.gather(tf.reshape(image, [rows, -1]), places)
    image = tf.reshape(tf.matmul(weights, tf.cast(image, tf.float32)), [-1, padded * channels])
    # Now the columns, each with all its rows.
    image = tf.reshape(tf.transpose(image[:height]), [padded, -1])
    places, weights = _resize_weights(columns, width, interpolation)
    image = tf.matmul(weights, tf.gather(image, places))
    image = tf.transpose(tf.reshape(image, [-1, height])[: width * channels])
    return tf.reshape(image, [height, width, channels])


def _resize_weights(size, result, interpolation):
    """Of one side: for each eight pixels of the result, where they come from and with what weights.

    int32 (eights, length) and float32 (eights, 8, length). The last eight may be too many.
    """
    radius, kernel = _KERNELS[interpolation]
    scale = tf.cast(size / result, tf.float32)
    stretch = tf.maximum(scale, 1)
    length = tf.cast(tf.math.ceil(7 * scale + 2 * radius * stretch), tf.int32) + 1
    length = tf.minimum(length, size)
    centres = (tf.range(-(-result // 8) * 8, dtype=tf.float32) + 0.5) * scale - 0.5
    centres = tf.reshape(tf.minimum(centres, tf.cast(size, tf.float32)), [-1, 8, 1])
    first = tf.cast(tf.math.ceil(centres[:, 0] - radius * stretch), tf.int32)
    places = tf.clip_by_value(first, 0, size - length) + tf.range(length)
    distances = (tf.cast(places, tf.float32)[:, tf.newaxis] - centres) / stretch
    weights = kernel(tf.abs(distances))
    return places, weights / tf.reduce_sum(weights, axis=2, keepdims=True)


def _bicubic(d):
    """Cubic convolution with a = -0.5."""
    near, far = (1.5 * d - 2.5) * d * d + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2
    return tf.where(d < 1, near, tf.where(d < 2, far, 0.0))


# For each interpolation how far a pixel reaches, and its weight by distance.
_KERNELS = {"bicubic": (2, _bicubic), "bilinear": (1, lambda d: tf.maximum(1 - d, 0))}


def flip(image: tf.Tensor, key: tf.Tensor, probability: float = 0.5) -> tf.Tensor:
    """Mirrors an image (height, width, channels) left to right, with this probability."""
    mirrored = _uniform(key, _FLIP, []) < probability
    return tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: tf.identity(image))


def shift(image: tf.Tensor, key: tf.Tensor, limit: int) -> tf.Tensor:
    """Moves an image by a random whole number of pixels, at most `limit`, in each direction.

    What comes from outside is 0. The image is (height, width, channels), of any type.
    """
    room = tf.pad(image, [[limit, limit], [limit, limit], [0, 0]])
    top, left = tf.unstack(
        tf.random.stateless_uniform([2], _step_key(key, _SHIFT), 0, 2 * limit + 1, tf.int32)
    )
    return tf.ensure_shape(tf.slice(room, [top, left, 0], tf.shape(image)), image.shape)


def normalize(image: tf.Tensor, mean: Sequence[float], std: Sequence[float]) -> tf.Tensor:
    """From pixels, uint8 or float from 0 to 255, to float32 with these means and deviations."""
    scale = tf.constant([1 / (255 * s) for s in std], tf.float32)
    shift = tf.constant([m / s for m, s in zip(mean, std, strict=True)], tf.float32)
    rows = tf.cast(in_rows(image), tf.float32) * for_rows(scale, image) - for_rows(shift, image)
    return tf.reshape(rows, tf.shape(image))


def erase(
    image: tf.Tensor,
    key: tf.Tensor,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
) -> tf.Tensor:
    """Replaces a random box by normal noise, with this probability.

    Source: timm's `RandomErasing` in mode "pixel" with one box. Boxes as high or as wide as the
    image are refused; after ten such the image stays whole.

    Args:
        image: float32 (height, width, channels), normalized.
        key: int64 (2,).
        probability: of trying to place a box.
        area: bounds of the box's share of the image.
        ratio: bounds of height / width, whose logarithm is uniform.

    Returns:
        As `image`.
    """
    shape = tf.shape(image)
    image_height, image_width = tf.unstack(tf.cast(shape[:2], tf.float32))
    draws = _uniform(key, _ERASE, [4 * _TRIES + 1])
    share, aspect, top, left = tf.unstack(tf.reshape(draws[1:], [4, _TRIES]))
    share = (area[0] + (area[1] - area[0]) * share) * image_height * image_width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + (high - low) * aspect)
    heights, widths = tf.round(tf.sqrt(share * aspect)), tf.round(tf.sqrt(share / aspect))
    fits = (heights < image_height) & (widths < image_width)
    tops = tf.floor(top * (image_height - heights + 1))
    lefts = tf.floor(left * (image_width - widths + 1))
    boxes = tf.cast(tf.stack([tops, lefts, heights, widths], axis=1), tf.int32)

    def erased():
        top, left, height, width = tf.unstack(tf.gather(boxes, tf.argmax(fits)))
        noise = tf.random.stateless_normal(
            [height, width, shape[2]], _step_key(key, _ERASE_NOISE), dtype=image.dtype
        )
        margins = [[top, shape[0] - top - height], [left, shape[1] - left - width], [0, 0]]
        box = _in_box(shape, top, left, height, width)
        rows = tf.where(box, in_rows(tf.pad(noise, margins)), in_rows(image))
        return tf.reshape(rows, shape)

    there = (draws[0] < probability) & tf.reduce_any(fits)
    return tf.ensure_shape(tf.cond(there, erased, lambda: tf.identity(image)), image.shape)


def _in_box(shape, top, left, height, width):
    """bool (image height, image width * channels): whether a value is in the box."""
    y = tf.range(shape[0])[:, tf.newaxis]
    x = tf.repeat(tf.range(shape[1]), shape[2])
    return (y >= top) & (y < top + height) & (x >= left) & (x < left + width)


# RandAugment


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
    """timm's RandAugment with increasing severities: by default `rand-m9-mstd0.5-inc1`.

    Args:
        image: RGB (height, width, 3), uint8 or float from 0 to 255.
        key: int64 (2,).
        mean: of the pixels divided by 255; rounded to a colour, it fills what comes from outside.
        layers: how many of the operations are drawn, uniformly, with replacement.
        probability: with which each that was drawn is applied.
        magnitude, magnitude_std: of the normal distribution from which each application's magnitude
            is drawn, and then clipped to 0 to 10.

    Returns:
        uint8, as large as `image`.
    """
    image = _to_uint8(tf.convert_to_tensor(image))
    fill = tuple(min(255, round(255 * value)) for value in mean)
    names, magnitudes, signs = _rand_augment_draws(
        key, layers, probability, magnitude, magnitude_std
    )
    for layer in range(layers):
        branches = [
            # Bound as defaults: the loop's variables change.
            lambda name=name, image=image, layer=layer: _operation(
                name, fill, name in _COMPILED and image.shape.is_fully_defined()
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
    operation, applied, sign = tf.unstack(_uniform(key, _RAND_AUGMENT, [3, layers]))
    count = len(OPERATIONS)
    number = tf.where(applied < probability, tf.cast(operation * count, tf.int32), count)
    # A key of their own: not the bits that the uniform numbers were made of.
    normal_key = _step_key(_step_key(key, _RAND_AUGMENT), 0)
    magnitudes = tf.random.stateless_normal([layers], normal_key, magnitude, magnitude_std)
    return number, tf.clip_by_value(magnitudes, 0.0, 10.0), tf.where(sign < 0.5, 1.0, -1.0)


def _to_uint8(image):
    if image.dtype == tf.uint8:
        return image
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


# A batch


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
    """Mixes each image of a batch, and its label, with that at the same place from the end.

    Either by mixup, all pixels lambda to 1 - lambda, or by cutmix, which puts a box of the partner
    into the image; for all images of the batch the same. Source: timm's `Mixup`, mode "batch", at
    version 0.3.2, whose cutmix boxes have even sizes (in 1.0.31 they may be one pixel larger).

    Args:
        images: float (batch, height, width, channels).
        labels: float (batch, classes), each summing to 1.
        key: int64 (2,), the batch's.
        mixup, cutmix: alpha of the beta distribution of lambda; 0 for never. If both are 0, labels
            are only smoothed.
        cutmix_probability: of cutmix where both are possible.
        smoothing: share of each label that is spread over all classes.
        augmenter: "timm"; "keras_cv": keras-cv's MixUp or CutMix instead; "none": only smooths.

    Returns:
        Images and labels, as they were.
    """
    _check_augmenter(augmenter)
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    labels = labels * (1 - smoothing) + smoothing / labels.shape[-1]
    if augmenter == "none" or mixup == cutmix == 0:
        return images, labels
    if mixup == 0 or cutmix == 0:
        cutmix_probability = float(mixup == 0)
    which, y, x = tf.unstack(_uniform(key, _MIX, [3]))
    if augmenter == "keras_cv":
        by_mixup, by_cutmix = (
            lambda layer=layer: _keras_cv_mix(layer, images, labels)
            for layer in _keras_cv_mixers(mixup, cutmix)
        )
    else:
        of_known_shape = images.shape.is_fully_defined() and labels.shape.is_fully_defined()
        mix_up, cut = (_MIXUP, _CUTMIX) if of_known_shape else (_mixup, _cutmix)
        by_mixup, by_cutmix = (
            lambda: mix_up(images, labels, _beta(key, mixup or 1.0)),
            lambda: cut(images, labels, _beta(key, cutmix or 1.0), y, x),
        )
    return tf.cond(which < cutmix_probability, by_cutmix, by_mixup)


def _beta(key, alpha):
    """A float32 scalar from the beta distribution with both parameters alpha."""
    gammas = tf.random.stateless_gamma([2], _step_key(_step_key(key, _MIX), 0), alpha)
    return gammas[0] / (gammas[0] + gammas[1])


def _mix_rows(rows, keep):
    keep = tf.cast(keep, rows.dtype)
    return keep * rows + (1 - keep) * tf.reverse(rows, [0])


def _mixup(images, labels, keep):
    return _mix_rows(images, keep), _mix_rows(labels, keep)


def _cutmix(images, labels, keep, y, x):
    """Its box has the centre (y, x), as shares of the sides, and is cut off at the edges."""
    shape = tf.shape(images)[1:]
    sides = tf.cast(shape[:2], tf.float32)
    half = tf.cast(sides * tf.sqrt(1 - keep), tf.int32) // 2
    centre = tf.cast(sides * tf.stack([y, x]), tf.int32)
    start, end = tf.maximum(centre - half, 0), tf.minimum(centre + half, shape[:2])
    box = _in_box(shape, *tf.unstack(start), *tf.unstack(end - start))
    rows = tf.reshape(images, [-1, shape[0], shape[1] * shape[2]])
    rows = tf.where(box, tf.reverse(rows, [0]), rows)
    # The labels' share is that of the real box.
    keep = 1 - tf.cast(tf.reduce_prod(end - start), tf.float32) / tf.reduce_prod(sides)
    return tf.reshape(rows, tf.shape(images)), _mix_rows(labels, keep)


# A batch is larger than the processor's caches: XLA goes through it once, in half of the time.
_MIXUP, _CUTMIX = (
    tf.function(function, autograph=False, jit_compile=True) for function in (_mixup, _cutmix)
)


# keras-cv


def _check_augmenter(augmenter: str) -> None:
    if augmenter not in AUGMENTERS:
        raise ValueError(
            f"`augmenter` must be one of {', '.join(AUGMENTERS)}. Received {augmenter!r}."
        )


def _keras_cv_layers():
    try:
        from keras_cv import layers
    except ImportError as error:
        raise ImportError(
            'augmenter="keras_cv" needs keras-cv, which can\'t be imported here. '
            "`pip install keras-cv` installs it."
        ) from error
    return layers


def _keras_cv_rand_augment():
    return _keras_cv_layers().RandAugment(
        value_range=(0, 255),
        augmentations_per_image=2,
        magnitude=0.9,
        magnitude_stddev=0.05,
        rate=0.5,
    )


def _keras_cv_mixers(mixup, cutmix):
    layers = _keras_cv_layers()
    return layers.MixUp(mixup or 1.0), layers.CutMix(cutmix or 1.0)


def _keras_cv_mix(layer, images, labels):
    mixed = layer({"images": images, "labels": labels}, training=True)
    return tf.cast(mixed["images"], images.dtype), tf.cast(mixed["labels"], labels.dtype)
