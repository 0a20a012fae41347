"""`keras-cvt weights`: the published weights."""

from __future__ import annotations

import argparse
from typing import Any

from keras_cvt import weights


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("weights", help="the published weights, and their accuracy")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    print(weights.table())
