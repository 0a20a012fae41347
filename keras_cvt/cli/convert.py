"""`keras-cvt convert`: a checkpoint in another format, or a preset of KerasHub."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_cvt import _backend
from keras_cvt._files import check_file, replacing
from keras_cvt.cli import designs
from keras_cvt.weights.formats import KEYS


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "convert",
        help="a checkpoint in another format",
        description="Reads .pth, .pt, .bin, .safetensors, .weights.h5 and .keras; writes "
        ".safetensors, .weights.h5 and .keras. A name without a suffix is the folder of a preset of "
        "KerasHub: it is made of a .keras file or of a run's folder, and a .keras file of it.",
    )
    parser.add_argument("source", metavar="SRC")
    parser.add_argument(
        "destination",
        metavar="DST",
        help="a file, which is replaced if it is there; or the folder of a new preset",
    )
    parser.add_argument(
        "--keys",
        choices=KEYS,
        default=KEYS[0],
        help=f"names in a .safetensors file (default: {KEYS[0]})",
    )
    parser.add_argument(
        "--spec",
        metavar="FILE",
        help="the configuration of a model that is no published variant, as JSON: a list of "
        "stages, the official options or Hugging Face's config.json",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    if not Path(arguments.destination).suffix or _is_preset(arguments.source):
        _convert_preset(arguments)
        return
    stages = designs.read_stages(arguments.spec) if arguments.spec else None
    _backend.start_quietly()
    from keras_cvt.conversion import convert

    convert(arguments.source, arguments.destination, arguments.keys, stages)
    print(f"wrote {arguments.destination}")


def _is_preset(source: str) -> bool:
    """Whether a source is a preset's folder, or an address such as hf://user/model."""
    return "://" in source or all(
        Path(source, name).is_file() for name in ("config.json", "metadata.json")
    )


def _convert_preset(arguments: argparse.Namespace) -> None:
    """Makes a preset of a model, or a model of a preset."""
    source, destination = arguments.source, Path(arguments.destination)
    if arguments.spec or arguments.keys != KEYS[0]:
        raise ValueError("--spec and --keys are for files of weights, not for presets of KerasHub.")
    if _is_preset(source):
        if destination.suffix != ".keras":
            raise ValueError(f"A preset becomes a .keras file, not {destination}.")
        check_file(destination)
    _backend.start_quietly()
    from keras_cvt.hub import conversion

    if _is_preset(source):
        model = conversion.read_preset(source)
        with replacing(destination) as temporary:
            model.save(temporary)
    else:
        conversion.write_preset(source, destination)
    print(f"wrote {destination}")
