"""The `keras-cvt` command: a module for each of its commands.

Their parsers need no Keras, so that help and mistakes are answered at once. A command imports what it
needs when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import keras_cvt
from keras_cvt import _backend
from keras_cvt._commands import WRONG_USE, Parser, exit_status
from keras_cvt.cli import convert, draw, embed, explain, export, predict, summary, weights

PROGRAM = "keras-cvt"
COMMANDS = (
    summary,
    draw,
    weights,
    convert,
    predict,
    embed,
    explain,
    export,
)  # as --help lists them
EXPECTED = {ValueError: WRONG_USE, OSError: WRONG_USE, ImportError: WRONG_USE}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `keras-cvt`.

    Args:
        argv: The arguments. Defaults to those of the process.

    Returns:
        The exit status: 0; 1 if some images have no answer; 2 for wrong arguments and files that
        can't be used; 130 after Ctrl-C; 141 if nobody reads the output.
    """
    return exit_status(PROGRAM, lambda: _run(_parser().parse_args(argv)), {})


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM, description="CvT, the Convolutional vision Transformer, for Keras 3."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions, and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version and all else that a report of a fault must tell."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"{PROGRAM} {keras_cvt.__version__}\n{_backend.environment()}")
        parser.exit()


def _run(arguments: argparse.Namespace) -> int:
    return exit_status(f"{PROGRAM} {arguments.command}", lambda: arguments.run(arguments), EXPECTED)
