"""The images of a run: those it learns from, and those it is validated with."""

from __future__ import annotations

import dataclasses
import re

import tensorflow as tf

from keras_cvt._validation import check_class_names
from training.config import Config, ConfigError, DataConfig
from training.data import sources
from training.data.classes import with_labels_of

Dataset = tf.data.Dataset


@dataclasses.dataclass(frozen=True)
class RunData:
    """The sources of a run's training and validation images, which have the same classes."""

    train: sources.Source
    validation: sources.Source

    @property
    def class_names(self) -> tuple[str, ...]:
        """For each label, for people."""
        return self.train.class_names

    @property
    def left_out(self) -> list[str]:
        """Which files beside the images are passed over, and why: lines, all different."""
        return [*dict.fromkeys(s.left_out for s in (self.train, self.validation) if s.left_out)]

    @property
    def class_ids(self) -> tuple[str, ...]:
        """For each label the name that no other class has."""
        return self.train.class_ids

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
    _check_names(asked.source, train)
    _check_apart(asked, train, validation)
    validation = with_labels_of(validation, train.class_ids, validated_with, asked.source)
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


def _check_names(name: str, source: sources.Source) -> None:
    """Refuses classes whose names could not be kept in a model, and a single class."""
    try:
        check_class_names(source.class_ids)
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    if len(source.class_ids) < 2:
        raise ConfigError(
            f"{name} must have at least two classes: there is nothing to learn of one. Received "
            f"{source.class_ids[0]!r}."
        )


def _check_apart(asked: DataConfig, train: sources.Source, validation: sources.Source) -> None:
    """Refuses a validation with images that are also trained on."""
    if train.contents is None or validation.contents is None:
        return
    shared = train.contents.shared_with(validation.contents)
    if not shared:
        return
    advice = "Choose other images for one of them."
    if asked.validation_source in (None, asked.source):
        train_split, validation_split = _apart(train.split, validation.split)
        advice = f"Apart are train_split={train_split} and validation_split={validation_split}."
        if (train_split, validation_split) == (train.split, validation.split):
            advice = "Class folders of one are links to those of the other."
    raise ConfigError(
        f"{shared:,} of the {validation.count:,} validation images are also trained on: the splits are "
        f"{train.split} and {validation.split}. {advice}"
    )


def _apart(train: str, validation: str) -> tuple[str, str]:
    """Splits of one source that have no image in common, as near as can be to two that have some."""
    if rest := sources.rest_of(validation):
        return rest, validation
    if rest := sources.rest_of(train):
        return train, rest
    parts = validation.split("+")
    if others := [part for part in train.split("+") if part not in parts and part != "all"]:
        return "+".join(others), validation
    part = re.match(r"\w*", validation)[0].replace("all", "train")
    return f"{part}[:90%]", f"{part}[90%:]"


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
    """Of the whole run, with the epochs at the final learning rate.

    Raises:
        ConfigError: if there are more than an optimizer counts, or none.
    """
    per_epoch = steps_per_epoch(config, data)
    asked = config.optimization
    steps = asked.decay_steps(per_epoch) + asked.cooldown_epochs * per_epoch
    if steps >= 2**31:
        raise ConfigError(
            "`epochs` and `cooldown_epochs`, or `steps`, must make fewer than 2**31 steps. Received "
            f"{steps:,} steps."
        )
    return steps
