"""`key=value` settings as text."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable
from typing import Any

from training.config.config import KEYS, SECTIONS, Config
from training.config.fields import ConfigError, check_choice, describe, kinds


def override(config: Config, overrides: Iterable[str]) -> Config:
    """A changed copy of `config`.

    Args:
        overrides: Strings `key=value`; the last of one key counts. The setting's type decides how a
            value is read: an integer, a number, true or false, text, a tuple as values with commas
            between them ("32,64"), and "none" where a setting may be None.

    Raises:
        ConfigError: For an unknown key, or a value that does not fit its setting.
    """
    changes = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value. Received {text!r}.")
        check_choice("The key of --set", key, list(KEYS))
        section, field = KEYS[key]
        kind = kinds(SECTIONS[section])[field.name]
        try:
            changes[key] = parse(value.strip(), kind)
        except ValueError:
            raise ConfigError(f"`{key}` must be {describe(kind)}. Received {value!r}.") from None
    return config.replace(**changes)


def parse(text: str, kind: Any) -> Any:
    """Reads a value of a setting's type; ValueError if it is none."""
    if isinstance(kind, types.UnionType):  # X | None
        return None if text.lower() == "none" else parse(text, typing.get_args(kind)[0])
    if typing.get_origin(kind) is tuple:
        items = text.removeprefix("(").removesuffix(")").removesuffix(",").split(",")
        return tuple(parse(item.strip(), typing.get_args(kind)[0]) for item in items)
    if kind is bool:
        return ("false", "true").index(text.lower()) == 1
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def as_text(value: Any) -> str:
    """A setting's value as `override` reads it."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(as_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
