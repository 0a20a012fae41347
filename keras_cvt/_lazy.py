"""The package's public names, each imported when it is first asked for."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from typing import Any

# Module: the public names that it has.
NAMES = {
    "analysis.attention": ("AttentionMaps", "attention_maps", "plot_attention"),
    "analysis.complexity": ("complexity",),
    "analysis.diagram": ("draw",),
    "architecture": ("StageConfig", "stages_from_spec"),
    "deployment": ("deploy",),
    "imagenet": ("decode_predictions", "load_image", "preprocess_input"),
    "layers": (
        "MLP",
        "ClassToken",
        "ConvEmbedding",
        "ConvProjection",
        "ConvProjectionAttention",
        "CvTBlock",
        "DropPath",
        "PositionEmbedding",
        "quick_gelu",
    ),
    "models": ("CvT", "CvT13", "CvT21", "CvTW24", "feature_pyramid"),
}
MODULES = ("checkpoints", "export", "imagenet", "weights")

_HOMES = {name: module for module, names in NAMES.items() for name in names}


def load(name: str) -> Any:
    """A public name of the package; AttributeError if there is none."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"keras_cvt.{_HOMES[name]}"), name)
    if name in MODULES:
        return importlib.import_module(f"keras_cvt.{name}")
    raise AttributeError(f"module 'keras_cvt' has no attribute {name!r}")


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
