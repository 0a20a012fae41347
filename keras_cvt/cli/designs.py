"""Models that are meant by their configuration alone: variants, and specs in JSON files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from keras_cvt import _commands
from keras_cvt._files import read_json
from keras_cvt.architecture import VARIANTS, StageConfig, stages_from_json, variant_named


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `chosen` reads, and the image's size."""
    parser.add_argument(
        "model",
        help="cvt13, cvt21 or cvtw24; or a .json file with another configuration: a list of stages, "
        "the official options, or Hugging Face's config.json",
    )
    parser.add_argument(
        "--image-size",
        type=_commands.image_size,
        default=(224, 224),
        metavar="SIZE",
        help="in pixels: 384, or HEIGHTxWIDTH (default: 224)",
    )
    parser.add_argument(
        "--classes", type=_commands.integer(1), default=1000, metavar="N", help="default: 1000"
    )


def chosen(model: str) -> tuple[str, Sequence[StageConfig]]:
    """What to call the model that is meant, and its stages.

    Raises:
        ValueError: If there is no such variant, or the file has no spec.
        OSError: If the file can't be read.
    """
    if model.endswith(".json"):
        return Path(model).stem, read_stages(model)
    name = variant_named(model)
    return name, VARIANTS[name]


def read_stages(path: str) -> list[StageConfig]:
    """The stages of a JSON file: a list of them, the official options, or Hugging Face's config.json.

    Raises:
        ValueError: If the file has something else, or stages of which no model can be made.
        OSError: If it can't be read.
    """
    return stages_from_json(read_json(Path(path), (dict, list)))
