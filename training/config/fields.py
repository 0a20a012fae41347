"""How the settings of a section are declared and checked."""

from __future__ import annotations

import dataclasses
import functools
import struct
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

from keras_cvt._messages import did_you_mean
from keras_cvt.images.preprocessing import LARGEST_SIDE, SMALLEST_CROP


class ConfigError(ValueError):
    """A request that cannot be carried out. The message is one line, meant for whoever made it."""


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a setting may have.

    Attributes:
        text: The range in words; completes "must be ...".
        holds: Whether a value lies in it.
    """

    text: str
    holds: Callable[[Any], bool]


AT_LEAST_2 = Range("at least 2", lambda value: value >= 2)
AT_LEAST_1 = Range("at least 1", lambda value: value >= 1)
AT_LEAST_0 = Range("at least 0", lambda value: value >= 0)
MORE_THAN_0 = Range("more than 0", lambda value: value > 0)
AT_LEAST_1_INT32 = Range("at least 1 and less than 2**31", lambda value: 1 <= value < 2**31)
SIDE = Range(f"from 1 to {LARGEST_SIDE}", lambda value: 1 <= value <= LARGEST_SIDE)
INT32 = Range("at least 0 and less than 2**31", lambda value: 0 <= value < 2**31)
FROM_0_TO_1 = Range("from 0 to 1", lambda value: 0 <= value <= 1)
LESS_THAN_1 = Range("at least 0 and less than 1", lambda value: 0 <= value < 1)
BETWEEN_0_AND_1 = Range("more than 0 and less than 1", lambda value: 0 < value < 1)
CROP = Range(f"from {SMALLEST_CROP} to 1", lambda value: as_float32(SMALLEST_CROP) <= value <= 1)
PERCENT = Range("more than 0 and less than 100", lambda value: 0 < value < 100)
FROM_1_TO_64 = Range("from 1 to 64", lambda value: 1 <= value <= 64)


def setting(
    default: Any = dataclasses.MISSING,
    within: Range | None = None,
    *,
    choices: Sequence[str] = (),
    key: str | None = None,
    may_change: bool = False,
    before: Any = dataclasses.MISSING,
    read: Callable[[str], Any] | None = None,
    words: str | None = None,
) -> Any:
    """Declares a field of a section.

    Args:
        default: Its default; without one, the setting must be given.
        within: The values it may have, besides None.
        choices: The texts it may be.
        key: Its name in `--set` and in stored files, where that is not the field's name.
        may_change: Whether it may differ between the sessions of one run: it does not change what is
            computed, except for rounding.
        before: What a stored config without it means, which was made before there was this setting.
            Defaults to the default.
        read: Makes a value of the text of `--set`, where the type does not say how.
        words: What it may be; completes "must be ...". Defaults to the type in words.
    """
    metadata = {
        "within": within,
        "choices": choices,
        "key": key,
        "may_change": may_change,
        "before": before,
        "read": read,
        "words": words,
    }
    return dataclasses.field(default=default, metadata=metadata)


class Section:
    """A part of a config: a frozen dataclass that refuses values out of range."""

    def __post_init__(self):
        """Checks each field by itself.

        Raises:
            ConfigError: With the setting, its value and what would be right.
        """
        for field in dataclasses.fields(self):
            value, within = getattr(self, field.name), field.metadata.get("within")
            kind = kinds(type(self))[field.name]
            # Of a config.json that was edited by hand, for one.
            self.check(
                field.name, is_of(value, kind), field.metadata.get("words") or describe(kind)
            )
            if choices := field.metadata.get("choices"):
                check_choice(f"`{key_of(field)}`", value, choices)
            if within is not None and value is not None:
                self.check(field.name, within.holds(value), within.text)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, float):
                    self._check_float32(field.name, number, within)

    def _check_float32(self, name: str, number: float, within: Range | None) -> None:
        """Refuses a number of a field that float32, in which it is computed with, has no number for.

        It would be infinite, or 0 and so have no effect, or 1 where 1 is out of range.
        """
        right = f"a number that float32 has, from {_SMALLEST:.3g} to {_LARGEST:.3g} in size"
        self.check(name, is_float32(number), right)
        single = as_float32(number)
        if within is not None:
            right = f"{within.text}, also as float32, where it is {single:g}"
            self.check(name, within.holds(single), right)

    def check(self, name: str, holds: bool, right: str) -> None:
        """Raises a ConfigError unless `holds`: the field `name` must be what `right` says."""
        if not holds:
            key = next(key_of(f) for f in dataclasses.fields(self) if f.name == name)
            raise ConfigError(f"`{key}` must be {right}. Received {getattr(self, name)!r}.")


def as_float32(number: float) -> float:
    """The number of float32 that is nearest to one that is not too large for it."""
    return struct.unpack("f", struct.pack("f", number))[0]


def is_float32(number: float) -> bool:
    """Whether float32 has a number for this one: neither 0 nor infinity where it is neither."""
    return number == 0 or _SMALLEST <= abs(number) <= _LARGEST


# TensorFlow takes what is smaller than float32's normal numbers for 0.
_SMALLEST, _LARGEST = 2.0**-126, (2 - 2**-23) * 2.0**127


@functools.cache
def kinds(section: type[Section]) -> dict[str, Any]:
    """The type of each of a section's fields."""
    return typing.get_type_hints(section)


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a setting's type. An integer is a number too; true and false are not."""
    if isinstance(kind, types.UnionType):
        return any(is_of(value, one) for one in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(is_of(each, item) for each in value)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float))
    return isinstance(value, typing.get_origin(kind) or kind)


def describe(kind: Any) -> str:
    """A setting's type in words; completes "must be ..."."""
    if isinstance(kind, types.UnionType):
        return " or ".join(map(describe, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return f"values with commas between them, each {describe(typing.get_args(kind)[0])}"
    words = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    return {**words, types.NoneType: "none"}.get(kind) or str(kind)


def key_of(field: dataclasses.Field) -> str:
    """A field's name in `--set` and in stored files."""
    return field.metadata.get("key") or field.name


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Raises a ConfigError unless `value`, which messages call `what`, is one of `choices`."""
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise ConfigError(f"{what} must be one of {', '.join(choices)}. Received {value!r}.{hint}")
