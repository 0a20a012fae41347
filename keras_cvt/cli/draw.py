"""`keras-cvt draw`: a picture of a model's architecture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_cvt import _backend, _commands
from keras_cvt._files import write_text
from keras_cvt.cli import designs


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "draw", help="a picture of a model's architecture: stages, shapes, multiply-adds"
    )
    designs.add_options(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.svg", help="a new file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    _commands.check_new_file(arguments.output, (".svg",))
    name, stages = designs.chosen(arguments.model)
    _backend.start_quietly()
    from keras_cvt.analysis.diagram import draw

    text = draw(stages, (*arguments.image_size, 3), arguments.classes, title=name)
    write_text(arguments.output, text, overwrite=False)
    print(f"wrote {arguments.output}")
