"""Public names that are imported when they are first asked for: Keras takes seconds to import."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from keras_cvt._backend import missing


def attach(
    package: str, names: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose names are imported late (PEP 562).

    Args:
        package: Its `__name__`.
        names: The public names of each of its modules.
        modules: The modules that are public themselves.
    """
    homes = {name: f"{package}.{module}" for module, found in names.items() for name in found}

    def get(name: str) -> Any:
        if name in homes:
            value = getattr(_imported(homes[name]), name)
        elif name in modules:
            value = _imported(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes, *modules})

    return get, listed


def _imported(module: str) -> ModuleType:
    """Imports a module. If a backend is missing, the error says what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        told = missing(error)
        if not told:
            raise
        raise ModuleNotFoundError(told, name=error.name) from error


def with_keras(module: str) -> None:
    """Imports a module now if Keras has been imported, else as soon as it is."""
    if "keras" in sys.modules:
        importlib.import_module(module)
    else:
        sys.meta_path.insert(0, _AfterKeras(module))


class _AfterKeras(importlib.abc.MetaPathFinder):
    """Finds Keras as the other finders do, and has a module imported after it."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._searching = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "keras" or self._searching:
            return None
        self._searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searching = False
        if spec is None or spec.loader is None:
            return None
        loader, execute = spec.loader, spec.loader.exec_module

        def execute_both(keras: Any) -> None:
            loader.exec_module = execute
            execute(keras)
            importlib.import_module(self._module)

        loader.exec_module = execute_both
        return spec
