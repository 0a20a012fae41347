"""`key=value` settings as text."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable
from typing import Any

from keras_cvt._files import json_text
from training.config.config import KEYS, SECTIONS, Config
from training.config.fields import ConfigError, check_choice, describe, kinds
from training.config.model import CUSTOM


def override(config: Config, overrides: Iterable[str]) -> Config:
    """A changed copy of `config`.

    Args:
        overrides: Strings `key=value`; the last of one key counts. The setting's type decides how a
            value is read: an integer, a number, true or false, text, a tuple as values with commas
            between them ("32,64"), JSON for `stages`, and "none" where a setting may be None. A variant
            (`model`) or a list of `stages` takes the place of the whole model that the config has.

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
        read = field.metadata.get("read") or (lambda text, kind=kind: parse(text, kind))
        try:
            changes[key] = read(value.strip())
        except ConfigError:
            raise
        except ValueError:
            right = field.metadata.get("words") or describe(kind)
            raise ConfigError(f"`{key}` must be {right}. Received {value!r}.") from None
    return config.replace(**{**_replaced(changes), **changes})


def _replaced(changes: dict[str, Any]) -> dict[str, Any]:
    """What goes with the config's model if another is chosen: a variant, or a list of stages."""
    if isinstance(changes.get("stages"), list):
        return {"model": CUSTOM, "dims": (), "depths": (), "heads": ()}
    if changes.get("model", CUSTOM) != CUSTOM:
        return {"dims": (), "depths": (), "heads": (), "stages": ()}
    return {"stages": ()} if "dims" in changes else {}


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
    if isinstance(value, dict) or (isinstance(value, (tuple, list)) and dict in map(type, value)):
        return json_text(value)
    if isinstance(value, (tuple, list)):
        return ",".join(map(as_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)
