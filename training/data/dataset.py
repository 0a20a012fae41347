"""The images of a run: those it learns from, and those it is validated with."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from training.config import Config, ConfigError
from training.data import sources

IMAGENET_CLASSES = 1000

Dataset = tf.data.Dataset


@dataclasses.dataclass(frozen=True)
class RunData:
    """The sources of a run's training and validation images, which have the same classes."""

    train: sources.Source
    validation: sources.Source

    @property
    def class_names(self) -> tuple[str, ...]:
        """For each label."""
        return self.train.class_names

    @property
    def left_out(self) -> list[str]:
        """Which files beside the images are passed over, and why: lines, all different."""
        return [*dict.fromkeys(s.left_out for s in (self.train, self.validation) if s.left_out)]

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


def load(config: Config) -> RunData:
    """Finds the images that the config names.

    Raises:
        ConfigError: if they are not there, or do not fit together or to the config.
    """
    asked = config.data
    train = sources.load(asked.source, "train", asked.train_split, asked.data_dir)
    validated_with = asked.validation_source or asked.source
    validation = sources.load(validated_with, "validation", asked.validation_split, asked.data_dir)
    counts = [len(source.class_names) for source in (train, validation)]
    # ImageNet's classes may be named by synsets or by words; their order is the same.
    if train.class_names != validation.class_names and set(counts) != {IMAGENET_CLASSES}:
        different = sorted({*train.class_names} ^ {*validation.class_names})[:3]
        raise ConfigError(
            f"{validated_with} must have the classes of {asked.source}, in the same order. Received "
            f"{counts[1]} classes and {counts[0]}. Only in one: {', '.join(different) or 'none'}."
        )
    if train.channels != validation.channels:
        raise ConfigError(
            f"The images of {validated_with} must have as many channels as those of {asked.source}. "
            f"Received {validation.channels} and {train.channels}."
        )
    if train.channels != 3 and config.augmentation.augmenter != "none":
        raise ConfigError(
            f"`augmenter` must be none for {asked.source}, whose images have no colors. Received "
            f"{config.augmentation.augmenter!r}."
        )
    return RunData(train, validation)


def steps_per_epoch(config: Config, data: RunData) -> int:
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


def total_steps(config: Config, data: RunData) -> int:
    """Of the whole run, with the epochs at the final learning rate."""
    per_epoch = steps_per_epoch(config, data)
    steps = config.optimization
    return steps.decay_steps(per_epoch) + steps.cooldown_epochs * per_epoch
