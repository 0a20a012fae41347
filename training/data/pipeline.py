"""Training batches."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from training import augment, startup
from training.config import Config, ConfigError
from training.data import sources
from training.data.damaged import Damaged, reported
from training.data.dataset import Data, Dataset, steps_per_epoch, total_steps
from training.data.delivery import finished, parts, served
from training.data.reading import interpolation, read, read_good

_GROUPS = 2  # prepared at a time: each may have hundreds of images


def training_batches(
    config: Config,
    data: Data,
    damaged: Damaged,
    first_step: int = 0,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
    attempt: int = 0,
) -> Dataset:
    """A worker's batches, from a step of the run on to its last.

    Of the rows of a step, which are the batch size, each worker has an equal part: the first
    worker the first rows, and so on; and so has each replica of those of its worker. An epoch has each
    image at most once; or, with repeated augmentation, a part of them, as often as that says.

    Args:
        config: the run's.
        data: `load(config)`.
        damaged: is told of images that can't be read.
        first_step: the first to be given.
        worker, workers: this one, from 0, and how many there are.
        replicas: of this worker.
        attempt: 0; another number for other random draws.

    Returns:
        An endless supply but for the run's end: for each step, `replicas` successive batches of
        (images, labels), of `batch_size // workers // replicas` rows. Labels are mixed and smoothed.

    Raises:
        ConfigError: if the batch can't be parted so, or the source can't be read by the tf.data
            service.
    """
    images, seed, batch_size = data.train, config.run.seed, config.optimization.batch_size
    asked = config.augmentation
    rows, batch = parts(batch_size, "`batch_size`", workers, replicas)
    group = _mix_group(config, rows, workers)
    rows_per_epoch = steps_per_epoch(config, data) * batch_size
    steps = total_steps(config, data)
    views = asked.repeated_augmentation

    def row_of_run(own: tf.Tensor) -> tf.Tensor:
        """The number of this worker's row among all rows of the run."""
        return own // rows * batch_size + worker * rows + own % rows

    # Rows with random access: which image is a matter of calculation.

    def indexed(number: tf.Tensor) -> Dataset:
        own = tf.range(number * group, (number + 1) * group)
        epoch, place = _divide(row_of_run(own), rows_per_epoch)
        order = augment.key(seed, attempt, epoch[0])  # a group is of one step, and so of one epoch
        last = tf.constant(images.count - 1, tf.int64)
        index = tf.random.experimental.index_shuffle(place // views, order, last)
        return Dataset.from_tensor_slices({"epoch": epoch, "place": place, "index": index})

    # Rows without: a resumed epoch is read from its beginning, but not decoded.

    own_per_epoch = rows_per_epoch // workers

    def of_epoch(epoch: tf.Tensor) -> Dataset:
        stream = images.stream(augment.key(seed, attempt, epoch), worker, workers)
        if views > 1:
            stream = stream.flat_map(lambda example: Dataset.from_tensors(example).repeat(views))
        # A worker's share may lack a few images: its first ones come again.
        stream = stream.repeat().take(own_per_epoch).enumerate(epoch * own_per_epoch)
        return stream.skip(tf.maximum(first_step * rows - epoch * own_per_epoch, 0)).map(placed)

    def placed(own: tf.Tensor, example: sources.Example) -> sources.Example:
        epoch, place = _divide(row_of_run(own), rows_per_epoch)
        return {"epoch": epoch, "place": place, **example}

    # Images.

    try:
        transform = augment.train_transform(
            config.data.image_size,
            seed,
            crop=False,
            augmenter=asked.augmenter,
            flip_probability=asked.flip,
            erase_probability=asked.erase,
            max_shift=asked.max_shift,
            interpolation=interpolation(images),
            mean=images.mean,
            std=images.std,
        )
    except ImportError as error:  # of keras-cv
        raise ConfigError(str(error)) from None

    def image(reader: Callable, example: sources.Example) -> tuple[tf.Tensor, ...]:
        index = (attempt, example["epoch"], example["place"])

        def box(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
            return augment.crop_box(height, width, augment.key(seed, *index), asked.crop_scale)

        pixels, targets, name = reader(images, example, asked.crop_scale and box)
        own_row = example["epoch"] * rows_per_epoch + example["place"]
        return transform(index, pixels), targets, name, own_row

    # Groups, which are mixed and in which a good image may stand in for a damaged one.

    def of_group(examples: Dataset) -> Dataset:
        """One element: the images together."""
        boldly, carefully = (
            examples.map(
                functools.partial(image, reader), startup.cores(), deterministic=True
            ).batch(group, drop_remainder=True)
            for reader in (read_good, read)
        )
        # Carefully only if an image could not be read: to try each one takes half a millisecond.
        return boldly.ignore_errors(log_warning=False).concatenate(carefully).take(1)

    def mixed(pixels: tf.Tensor, labels: tf.Tensor, names: tf.Tensor, numbers: tf.Tensor):
        pixels, labels = _filled(pixels, labels, names == "")
        pixels, labels = augment.mix(
            pixels,
            labels,
            augment.key(seed, attempt, numbers[0] // group),
            mixup=asked.mixup,
            cutmix=asked.cutmix,
            smoothing=asked.label_smoothing,
            augmenter="keras_cv" if asked.augmenter == "keras_cv" else "timm",
        )
        return pixels, labels, names

    if images.at is not None:
        groups = Dataset.range(first_step * rows // group, steps * rows // group)
        groups = _in_turns(groups, lambda number: of_group(indexed(number)))
    else:
        epochs = Dataset.range(
            first_step * rows // own_per_epoch, math.ceil(steps * rows / own_per_epoch)
        )
        examples = epochs.flat_map(of_epoch).take((steps - first_step) * rows)
        groups = _in_turns(
            examples.window(group, drop_remainder=True),
            lambda examples: of_group(Dataset.zip(examples)),
        )
    groups = groups.map(mixed, _GROUPS, deterministic=True)
    if config.data.data_service is not None:
        groups = served(groups, config)
    batches = reported(groups, damaged, in_place_of=group)
    if batch != group:
        batches = batches.rebatch(batch, drop_remainder=True)
    return finished(batches)


def _mix_group(config: Config, rows: int, workers: int) -> int:
    """How many successive rows are mixed with one another."""
    asked, batch_size = config.augmentation, config.optimization.batch_size
    if asked.mix_images is not None:
        if rows % asked.mix_images:
            raise ConfigError(
                f"`mix_images` must divide the images per worker and step, {batch_size} / "
                f"{workers} = {rows}. Received {asked.mix_images}."
            )
        return asked.mix_images
    if workers > 1 and (asked.mixup or asked.cutmix):
        raise ConfigError(
            f"`mix_images` must be a number that divides the images per worker and step, "
            f"{batch_size} / {workers} = {rows}: a batch of several workers can't be mixed as a "
            "whole. Received none."
        )
    return rows


def _in_turns(groups: Dataset, prepare: Callable[..., Dataset]) -> Dataset:
    """What a data set for each group prepares, in order."""
    return groups.interleave(
        prepare,
        cycle_length=_GROUPS,
        block_length=1,
        num_parallel_calls=_GROUPS,
        deterministic=True,
    )


def _divide(number: tf.Tensor, by: int) -> tuple[tf.Tensor, tf.Tensor]:
    return number // by, number % by


def _filled(images: tf.Tensor, labels: tf.Tensor, good: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The rows, but instead of one that is not good the next good one; after the last, the first."""

    def fill():
        places = tf.where(good)[:, 0]
        following = tf.searchsorted(places, tf.range(tf.size(good, tf.int64), dtype=tf.int64))
        chosen = tf.gather(places, following % tf.size(places))
        return tf.gather(images, chosen), tf.gather(labels, chosen)

    # If none is good, the run ends when it is reported.
    return tf.cond(
        tf.reduce_all(good) | ~tf.reduce_any(good),
        lambda: (tf.identity(images), tf.identity(labels)),
        fill,
    )
