"""A training run's settings: six sections, and one flat name for each setting."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from keras_cvt.architecture import check_input_size
from training.config.augmentation import AugmentationConfig
from training.config.data import DataConfig
from training.config.fields import ConfigError, Section, key_of
from training.config.model import ModelConfig
from training.config.optimization import OptimizationConfig
from training.config.run import RunConfig
from training.config.search import SearchConfig


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run. Together with the library's version it determines the result, bit for bit.

    Each setting belongs to one section. On the command line (`--set key=value`), in stored files and
    in `replace` it goes by its key alone, which is its field's name (but `model` for
    `config.model.variant`).

    Attributes:
        data: Where the images come from, and how they reach the model.
        augmentation: What is done to training images and labels.
        model: Which CvT is trained, and from which weights.
        optimization: The steps: how many, of what size, and what the optimizer does in each.
        run: Devices, randomness, checkpoints, and when the run stops.
        search: What `training.search` looks through, and how long.

    Example:
        config = training.config.load("digits", ["epochs=3"])
        config.optimization.epochs  # 3
        config.replace(seed=1).run.seed  # 1
    """

    data: DataConfig
    augmentation: AugmentationConfig
    model: ModelConfig
    optimization: OptimizationConfig
    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    search: SearchConfig = dataclasses.field(default_factory=SearchConfig)

    def __post_init__(self):
        """Refuses sections that do not fit together; each has checked itself.

        Raises:
            ConfigError: With the settings and their values.
        """
        batch_size, mix_images = self.optimization.batch_size, self.augmentation.mix_images
        if mix_images is not None and batch_size % mix_images:
            raise ConfigError(
                f"`batch_size` must be a multiple of `mix_images`. Received {batch_size} and "
                f"{mix_images}."
            )
        try:
            check_input_size(
                self.model.architecture(), (self.data.image_size, self.data.image_size, 3)
            )
        except ValueError as error:
            raise ConfigError(f"There is no such model. {error}") from None
        shift, size = self.augmentation.max_shift, self.data.image_size
        if shift >= size:
            raise ConfigError(
                f"`max_shift` must be less than `image_size`. Received {shift} and {size}."
            )

    def to_dict(self) -> dict[str, Any]:
        """The settings by key, as JSON has them.

        `Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config`.
        """
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self._values().items()
        }

    @classmethod
    def from_dict(cls, settings: dict[str, Any]) -> Config:
        """The config with these settings, by key, as they are stored.

        Those left out have their defaults; or, where there was no such setting when they were stored,
        the value that means what was done then.

        Raises:
            TypeError: If a setting without a default is missing, or a key is unknown.
            ConfigError: For a value out of range.
        """
        parts: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        for key, value in {**BEFORE, **settings}.items():
            if key not in KEYS:
                raise TypeError(f"A config has no setting {key!r}")
            section, field = KEYS[key]
            parts[section][field.name] = tuple(value) if isinstance(value, list) else value
        return cls(**{name: SECTIONS[name](**part) for name, part in parts.items()})

    def replace(self, **settings: Any) -> Config:
        """A copy with other values for some settings, by key, of any sections.

        Raises:
            TypeError, ConfigError: As `from_dict`.
        """
        return self.from_dict({**self._values(), **settings})

    def differences(self, settings: dict[str, Any]) -> list[str]:
        """What keeps a run with this config from continuing one with other `settings` (`to_dict`)."""
        may_change = {key for key, (_, field) in KEYS.items() if field.metadata.get("may_change")}
        mine, settings = self.to_dict(), {**BEFORE, **settings}
        return [
            f"{key} ({_shown(settings, mine, key)} there, {_shown(mine, settings, key)} asked)"
            for key in sorted({*mine, *settings} - may_change)
            if mine.get(key, "missing") != settings.get(key, "missing")
        ]

    def table(self) -> str:
        """The settings, a line each, section by section; a star marks what is not the default."""
        width = max(map(len, KEYS))
        return "\n".join(
            f"{' ' if value == KEYS[key][1].default else '*'} {key:{width}}  {value}"
            for key, value in self._values().items()
        )

    def _values(self) -> dict[str, Any]:
        """The settings by key."""
        return {
            key: getattr(getattr(self, section), field.name)
            for key, (section, field) in KEYS.items()
        }


def _shown(settings: dict[str, Any], others: dict[str, Any], key: str) -> str:
    """A value in `differences`, such that 2 and "2" differ."""
    value = settings.get(key, "missing")
    return repr(value) if str(value) == str(others.get(key, "missing")) else str(value)


SECTIONS: dict[str, type[Section]] = typing.get_type_hints(Config)

# {key: (its section's name, its field)}, section by section.
KEYS: dict[str, tuple[str, dataclasses.Field]] = {
    key_of(field): (name, field)
    for name, section in SECTIONS.items()
    for field in dataclasses.fields(section)
}

# What stored configs mean that were made before there were these settings.
BEFORE: dict[str, Any] = {
    key: field.metadata["before"]
    for key, (_, field) in KEYS.items()
    if field.metadata.get("before", dataclasses.MISSING) is not dataclasses.MISSING
}
