"""What a run is: a frozen `Config`, found by name in `training/configs`, changed by `key=value`.

Nothing here imports TensorFlow, so that a mistake on the command line is answered at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
import pkgutil
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from training import configs

SOURCES = ("digits",)
INITS = {"trunc_norm": None, "xavier": "glorot_uniform"}  # in keras_cvt's words
STRATEGIES = ("auto", "one_device", "mirrored")

# Fields that may differ between the sessions of one run: they don't change what is computed.
_MAY_CHANGE = {"may_change": True}


class ConfigError(ValueError):
    """A run that can't be done as asked. The message is one line, meant for the person who asked."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run. Together with the library's version it decides the result, bit for bit.

    Attributes:
        source: where the images come from; one of `SOURCES`.
        image_size: height and width of the images in pixels.
        dims, depths, heads: channels, number of blocks and attention heads of each stage of the CvT.
            The last stage has the class token.
        patch: kernel size, stride and padding of the first stage's embedding, in pixels. The other
            stages have the official 3, 2, 1.
        init: of the linear maps' weights: "trunc_norm", as the official models are, or "xavier", the
            other official option, with which narrow models learn faster.
        drop_path_rate: of the last stage's last block, in [0, 1).
        epochs: passes over the training images; of each pass, the images that don't fill a batch are
            left out, other ones each time.
        batch_size: images per step, over all devices together.
        learning_rate: the highest, reached after the warm-up. Absolute: it does not depend on the
            batch size or the number of devices.
        warmup_epochs: epochs of linear growth from `warmup_learning_rate`; a fraction too.
        weight_decay: AdamW's, multiplied by the learning rate in each step.
        label_smoothing: share of a training label that is spread over all classes, in [0, 1).
        max_shift: training images are moved by up to so many pixels in each direction.
        warmup_learning_rate, final_learning_rate: of the first step, and at the end of the cosine;
            by default the official code's.
        seed: of the initial weights, the order and shifts of the images, and the drop path.
        strategy: "auto": all GPUs, else the CPU; "one_device": the first GPU, else the CPU;
            "mirrored": one replica on each GPU, else on each logical CPU.
        logical_cpus: as how many devices TensorFlow sees the CPU; more than one is for trying
            "mirrored" without GPUs.
        keep_checkpoints: how many of the latest are kept.
        stop_after_epochs: stop there as if interrupted, to go on another time. None: at the end.
    """

    source: str
    image_size: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    patch: tuple[int, ...]
    init: str
    drop_path_rate: float
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: float
    weight_decay: float
    label_smoothing: float
    max_shift: int
    warmup_learning_rate: float = 1e-6
    final_learning_rate: float = 1e-5
    seed: int = 0
    strategy: str = "auto"
    logical_cpus: int = 1
    keep_checkpoints: int = dataclasses.field(default=2, metadata=_MAY_CHANGE)
    stop_after_epochs: int | None = dataclasses.field(default=None, metadata=_MAY_CHANGE)

    def __post_init__(self):
        """Refuses values out of range, and fields that do not fit together.

        Raises:
            ConfigError: with the field, its value and what would be right.
        """
        _choice("source", self.source, SOURCES)
        _choice("init", self.init, list(INITS))
        _choice("strategy", self.strategy, STRATEGIES)
        for key in ("image_size", "epochs", "batch_size", "logical_cpus", "keep_checkpoints"):
            _check(self, key, getattr(self, key) >= 1, "at least 1")
        for key in ("max_shift", "seed"):
            _check(self, key, 0 <= getattr(self, key) < 2**31, "at least 0 and less than 2**31")
        for key in ("drop_path_rate", "label_smoothing"):
            _check(self, key, 0 <= getattr(self, key) < 1, "at least 0 and less than 1")
        for key in ("warmup_learning_rate", "final_learning_rate", "weight_decay"):
            _check(self, key, getattr(self, key) >= 0, "at least 0")
        _check(self, "learning_rate", self.learning_rate > 0, "more than 0")
        _check(self, "warmup_epochs", 0 <= self.warmup_epochs < self.epochs, "less than `epochs`")
        stop = self.stop_after_epochs
        _check(self, "stop_after_epochs", stop is None or stop >= 1, "at least 1, or none")
        _check(self, "patch", len(self.patch) == 3, "kernel size, stride and padding")
        _check(self, "dims", len(self.dims) >= 1, "at least one stage's channels")
        for key in ("depths", "heads"):
            _check(
                self,
                key,
                len(getattr(self, key)) == len(self.dims),
                f"one value for each of the {len(self.dims)} stages of `dims`",
            )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them: `from_dict(json.loads(json.dumps(c.to_dict()))) == c`."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Config:
        """The config with these fields.

        Raises:
            TypeError: if a field is missing, or unknown.
            ConfigError: for a value out of range.
        """
        return cls(
            **{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()},
        )

    def differences(self, fields: dict[str, Any]) -> list[str]:
        """What keeps a run with this config from going on one with other `fields` (`to_dict`)."""
        may_change = {f.name for f in dataclasses.fields(self) if f.metadata.get("may_change")}
        mine = self.to_dict()
        return [
            f"{key} ({fields.get(key, 'missing')} there, {mine.get(key, 'missing')} asked)"
            for key in sorted({*mine, *fields} - may_change)
            if mine.get(key, "missing") != fields.get(key, "missing")
        ]


def _choice(key: str, value: str, choices: Sequence[str], what: str = "`{}`") -> None:
    if value not in choices:
        close = difflib.get_close_matches(value, choices, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"{what.format(key)} must be one of {', '.join(choices)}. Received {value!r}.{hint}"
        )


def _check(config: Config, key: str, holds: bool, right: str) -> None:
    if not holds:
        raise ConfigError(f"`{key}` must be {right}. Received {getattr(config, key)!r}.")


def names() -> list[str]:
    """The configs that there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def load(name: str, overrides: Iterable[str] = ()) -> Config:
    """The config of that name, with `key=value` overrides.

    Raises:
        ConfigError: for an unknown name or key, or a value that doesn't fit its field.
    """
    _choice("--config", name, names(), what="{}")
    return override(importlib.import_module(f"training.configs.{name}").CONFIG, overrides)


def override(config: Config, overrides: Iterable[str]) -> Config:
    """A changed copy of `config`.

    Args:
        overrides: strings `key=value`. The field's type decides how a value is read: an integer, a
            number, true or false, text, a tuple as values with commas between them ("32,64"), and
            "none" where a field may be None.

    Raises:
        ConfigError: as `load`.
    """
    field_types = typing.get_type_hints(Config)
    changes = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value. Received {text!r}.")
        _choice(key, key, list(field_types), what="The key of --set")
        try:
            changes[key] = _parse(value.strip(), field_types[key])
        except ValueError:
            raise ConfigError(
                f"`{key}` must be {_describe(field_types[key])}. Received {value!r}."
            ) from None
    return dataclasses.replace(config, **changes)


def _parse(text: str, kind: Any) -> Any:
    """Reads a value of a field's type; ValueError if it is none."""
    if isinstance(kind, types.UnionType):  # X | None
        return None if text.lower() == "none" else _parse(text, typing.get_args(kind)[0])
    if typing.get_origin(kind) is tuple:
        items = text.removeprefix("(").removesuffix(")").removesuffix(",").split(",")
        return tuple(_parse(item.strip(), typing.get_args(kind)[0]) for item in items)
    if kind is bool:
        return ("false", "true").index(text.lower()) == 1
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def _describe(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return f"{_describe(typing.get_args(kind)[0])} or none"
    if typing.get_origin(kind) is tuple:
        return f"values with commas between them, each {_describe(typing.get_args(kind)[0])}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]
