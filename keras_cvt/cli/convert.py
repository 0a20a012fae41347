"""`keras-cvt convert`: a checkpoint in another format."""

from __future__ import annotations

import argparse
from typing import Any

from keras_cvt import _backend
from keras_cvt.cli import designs
from keras_cvt.weights.formats import KEYS


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "convert",
        help="a checkpoint in another format",
        description="Reads .pth, .pt, .bin, .safetensors, .weights.h5 and .keras; writes "
        ".safetensors, .weights.h5 and .keras.",
    )
    parser.add_argument("source", metavar="SRC")
    parser.add_argument(
        "destination", metavar="DST", help="a file, which is replaced if it is there"
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
    stages = designs.read_stages(arguments.spec) if arguments.spec else None
    _backend.start_quietly()
    from keras_cvt.conversion import convert

    convert(arguments.source, arguments.destination, arguments.keys, stages)
    print(f"wrote {arguments.destination}")
