"""The images of a run, to learn from and to be evaluated by."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from training.config import Config, ConfigError
from training.data import sources

IMAGENET_CLASSES = 1000

Dataset = tf.data.Dataset


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run learns from, and what it is judged by; the classes are the same."""

    train: sources.Images
    held_out: sources.Images

    @property
    def class_names(self) -> tuple[str, ...]:
        """For each label."""
        return self.train.class_names

    @property
    def channels(self) -> int:
        """3 or 1."""
        return self.train.channels

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, in [0, 1]: what normalization subtracts."""
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, in [0, 1]: what normalization divides by."""
        return self.train.std


def load(config: Config) -> Data:
    """The images that the config names.

    Raises:
        ConfigError: if they are not there, or do not fit together or to the config.
    """
    asked = config.data
    train = sources.load(asked.source, "train", asked.train_split, asked.data_dir)
    judges = asked.validation_source or asked.source
    held_out = sources.load(judges, "validation", asked.validation_split, asked.data_dir)
    counts = [len(images.class_names) for images in (train, held_out)]
    # ImageNet's classes may be named by synsets or by words; their order is the same.
    if train.class_names != held_out.class_names and set(counts) != {IMAGENET_CLASSES}:
        different = sorted({*train.class_names} ^ {*held_out.class_names})[:3]
        raise ConfigError(
            f"{judges} must have the classes of {asked.source}, in the same order. Received "
            f"{counts[1]} classes and {counts[0]}. Only in one: {', '.join(different) or 'none'}."
        )
    if train.channels != held_out.channels:
        raise ConfigError(
            f"The images of {judges} must have as many channels as those of {asked.source}. Received "
            f"{held_out.channels} and {train.channels}."
        )
    if train.channels != 3 and config.augmentation.augmenter != "none":
        raise ConfigError(
            f"`augmenter` must be none for {asked.source}, whose images have no colours. Received "
            f"{config.augmentation.augmenter!r}."
        )
    return Data(train, held_out)


def steps_per_epoch(config: Config, data: Data) -> int:
    """Full batches in an epoch, which is as long whatever repeated augmentation.

    Raises:
        ConfigError: if there is none.
    """
    steps = data.train.count // config.optimization.batch_size
    if steps == 0:
        raise ConfigError(
            f"`batch_size` must be at most the number of training images, {data.train.count}. "
            f"Received {config.optimization.batch_size}."
        )
    return steps


def total_steps(config: Config, data: Data) -> int:
    """Of the whole run, with the epochs at the final learning rate."""
    per_epoch = steps_per_epoch(config, data)
    steps = config.optimization
    return steps.decay_steps(per_epoch) + steps.cooldown_epochs * per_epoch
