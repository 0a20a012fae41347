"""Training batches."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from training import augment
from training.config import Config, ConfigError
from training.data.damaged import PROBLEMS, Damaged, reported
from training.data.dataset import Dataset, RunData, steps_per_epoch, total_steps
from training.data.delivery import as_tuples, finished, parts, served
from training.data.order import GROUPS, Order
from training.data.reading import read_group
from training.data.sources.source import Example, Source


def training_batches(
    config: Config,
    data: RunData,
    damaged: Damaged,
    first_step: int = 0,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
    attempt: int = 0,
) -> Dataset:
    """Prepares a worker's batches, from a step of the run on to its last.

    Each worker has an equal part of a step's rows, which are the batch size: the first worker
    the first rows, and so on; and so has each replica of those of its worker. An epoch has each image
    at most once; or, with repeated augmentation, a part of them, as often as that says.

    Args:
        config: The run's.
        data: `load(config)`.
        damaged: Is told of images that can't be read.
        first_step: The first to be given.
        worker, workers: This one, from 0, and how many there are.
        replicas: Of this worker.
        attempt: 0; another number for other random draws.

    Returns:
        For each step to the run's end, `replicas` successive batches of (images, labels), of
        `batch_size // workers // replicas` rows. Labels are mixed and smoothed.

    Raises:
        ConfigError: If the batch can't be parted so, or the source can't be read by the tf.data
            service.
    """
    batch_size = config.optimization.batch_size
    rows, batch = parts(batch_size, "`batch_size`", workers, replicas)
    order = Order(
        seed=config.run.seed,
        attempt=attempt,
        worker=worker,
        workers=workers,
        batch_size=batch_size,
        rows=rows,
        group=_mix_group(config, rows, workers),
        rows_per_epoch=steps_per_epoch(config, data) * batch_size,
        views=config.augmentation.repeated_augmentation,
        first_step=first_step,
        steps=total_steps(config, data),
    )
    recipe = Recipe(config, data.train, order)
    groups = data.train.groups(order, recipe.group)
    groups = groups.map(recipe.mixed, GROUPS, deterministic=True)
    if config.data.data_service is not None:
        groups = served(groups, config, data.train.needs_pillow)
    batches = reported(groups, damaged, in_place_of=order.group)
    if batch != order.group:
        batches = batches.rebatch(batch, drop_remainder=True)
    return finished(as_tuples(batches, "images", "labels"))


class Recipe:
    """What becomes of a run's rows: they are read, augmented, put together in groups and mixed.

    Args:
        config: The run's.
        source: Of the rows.
        order: Of the rows.

    Raises:
        ConfigError: If keras-cv is asked for and missing.
    """

    def __init__(self, config: Config, source: Source, order: Order):
        self.asked, self.source, self.order = config.augmentation, source, order
        self.upright = config.data.orientation == "exif"
        self.pillow = config.data.data_service is None  # whose servers have no part of this process
        preprocessing = source.preprocessing(config.data.image_size, crop=None)
        try:
            self.transform = augment.train_transform(
                config.data.image_size,
                order.seed,
                crop=False,
                augmenter=self.asked.augmenter,
                flip_probability=self.asked.flip,
                erase_probability=self.asked.erase,
                max_shift=self.asked.max_shift,
                interpolation=preprocessing.interpolation,
                mean=preprocessing.mean,
                std=preprocessing.std,
            )
        except ImportError as error:  # of keras-cv
            raise ConfigError(str(error)) from None

    def image(self, reader: Callable[..., Example], row: Example) -> Example:
        """Reads a row's image and augments it.

        Args:
            reader: `read` or `read_good`.
            row: Of the source, with its "epoch" and "place".

        Returns:
            image: float32 (image_size, image_size, channels), normalized.
            labels: float32 (classes,), summing to 1.
            damaged: string (), the name of an image that can't be decoded, else "".
            unread: string (), the name of a file that can't be read now, else "".
            number: int64 (), the row's in the run.
        """
        index = self.order.row_key(row)

        def box(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
            key = augment.key(self.order.seed, *index)
            return augment.crop_box(height, width, key, self.asked.crop_scale)

        found = reader(
            self.source,
            row,
            self.asked.crop_scale and box,
            upright=self.upright,
            pillow=self.pillow,
        )
        return {
            "image": self.transform(index, found["image"]),
            "labels": found["targets"],
            "damaged": found["damaged"],
            "unread": found["unread"],
            "number": self.order.number(row),
        }

    def group(self, rows: Dataset) -> Dataset:
        """Puts the images of a group together: a data set of one element, each field (group, ...)."""
        return read_group(self.source, rows, self.image, self.order.group)

    def mixed(self, group: Example) -> Example:
        """Mixes the images of a group with one another: images, labels, and `PROBLEMS`."""
        asked = self.asked
        problems = {name: group[name] for name in PROBLEMS}
        images, labels = _filled(group["image"], group["labels"], group["damaged"] == "")
        number = group["number"][0] // self.order.group
        images, labels = augment.mix(
            images,
            labels,
            augment.key(self.order.seed, self.order.attempt, number),
            mixup=asked.mixup,
            cutmix=asked.cutmix,
            smoothing=asked.label_smoothing,
            augmenter="keras_cv" if asked.augmenter == "keras_cv" else "timm",
        )
        return {"images": images, "labels": labels, **problems}


def _mix_group(config: Config, rows: int, workers: int) -> int:
    """Decides how many successive rows are mixed with one another."""
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


def _filled(images: tf.Tensor, labels: tf.Tensor, good: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Replaces each row that is not good by the next good one; after the last comes the first."""

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
