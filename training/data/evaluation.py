"""Evaluation batches."""

from __future__ import annotations

import math

import tensorflow as tf

from training import augment
from training.config import DataConfig
from training.data import sources
from training.data.damaged import Damaged, reported
from training.data.dataset import Dataset
from training.data.delivery import finished, parts
from training.data.reading import interpolation, read


def evaluation_batches(
    config: DataConfig,
    images: sources.Images,
    damaged: Damaged,
    batch_size: int,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
) -> Dataset:
    """A worker's batches of images to be judged by, in the source's order.

    Over all workers and replicas each image is there exactly once with weight 1; but 0 if it can't be
    read, or no class is right for it. Rows that fill up the last batches have weight 0 too.

    Args:
        config: says the images' size and crop.
        images: such as `load(config).held_out`.
        damaged: is told of images that can't be read.
        batch_size: of all workers together, which part it as in `training_batches`.
        worker, workers: this one, from 0, and how many there are.
        replicas: of this worker.

    Returns:
        Batches of (images, targets, weights), all of the same size, and as many for each worker.

    Raises:
        ConfigError: if the batch can't be parted so.
    """
    rows, batch = parts(batch_size, "The evaluation batch", workers, replicas)
    steps = math.ceil(images.count / batch_size)

    def row(example: sources.Example) -> tuple[tf.Tensor, ...]:
        pixels, targets, name = read(images, example)
        pixels = evaluation_image(
            pixels, config.image_size, config.evaluation_crop, interpolation(images)
        )
        counts = tf.cast((name == "") & tf.reduce_any(targets > 0), tf.float32)
        return augment.normalize(pixels, images.mean, images.std), targets, counts, name

    if images.at is not None:
        examples = Dataset.range(images.count).map(lambda index: (index, {"index": index}))
    else:
        # Each worker reads all, so that the rows are the same with any number of them.
        examples = images.stream(None, 0, 1).enumerate()
    own = examples.filter(lambda number, _: number % batch_size // rows == worker)
    of_last = images.count - (steps - 1) * batch_size - worker * rows
    padding = min(max(rows - of_last, 0), rows)

    judged = own.map(lambda _, example: row(example), tf.data.AUTOTUNE, deterministic=True)
    nothing = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), judged.element_spec)
    batches = judged.concatenate(Dataset.from_tensors(nothing).repeat(padding)).batch(
        batch, drop_remainder=True
    )
    return finished(reported(batches, damaged))


def evaluation_image(
    image: tf.Tensor, size: int, crop: float | None, interpolation: str = "bicubic"
) -> tf.Tensor:
    """Prepares an image as `keras_cvt.imagenet.load_image` does, to 0.25 gray levels in the mean.

    Args:
        image: (height, width, channels), uint8.
        size: height and width of the result.
        crop: the short side is resized to `int(size / crop)` pixels before the centre is cut out;
            None: the whole image is resized, whatever its proportions.
        interpolation: of `augment.resize`.

    Returns:
        uint8 (size, size, channels).
    """
    if crop is None:
        return augment.resize(image, size, interpolation)
    height, width = tf.unstack(tf.shape(image)[:2])
    short = int(size / crop)
    # Torchvision's rounding: the long side's length is truncated, a half offset goes to the even one.
    full = tf.stack(
        [tf.maximum(short, short * height // width), tf.maximum(short, short * width // height)]
    )
    top, left = tf.unstack(tf.cast(tf.round((full - size) / 2), tf.int32))
    image = augment.resize(image, full, interpolation)
    return tf.ensure_shape(image[top : top + size, left : left + size], (size, size, None))
