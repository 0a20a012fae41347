"""One module per experiment; each says its command, hardware, time and accuracy, and has a `CONFIG`."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Iterable

from training.config import Config, check_choice, override


def names() -> list[str]:
    """The available configs, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options whose values `load` takes: `--config` and `--set`."""
    parser.add_argument(
        "--config", required=True, metavar="NAME", help="one of: " + ", ".join(names())
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the config",
    )


def load(name: str, overrides: Iterable[str] = ()) -> Config:
    """The config of that name, with `key=value` overrides.

    Raises:
        ConfigError: For an unknown name or key, or a value that does not fit its setting.
    """
    check_choice("--config", name, names())
    return override(importlib.import_module(f"{__name__}.{name}").CONFIG, overrides)
