"""Training steps of CvT-13 at 224x224 against the official code: `python -m benchmarks.training`.

Each step is a whole one: a batch from the host's memory, loss, gradients, AdamW; of Keras' `fit`, and
of the official PyTorch code in its eager mode, in float32 and in bfloat16's mixed precision. Contenders
take turns, as in `benchmarks.inference`. "MB an image" is the most memory that steps needed beside
what was there before the first (weights, but not AdamW's moments), divided by the batch.

Needs the environments that `make peers` makes. Takes some minutes. Exit status: 0 if done, 2 if it
can't be done as asked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks import measure
from keras_cvt._commands import Parser, command, integer


@command("benchmarks.training", measure.STATUSES)
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status."""
    parser = Parser(prog="benchmarks.training", description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=integer(1), nargs="+", default=[16, 32], metavar="N")
    parser.add_argument("--size", type=integer(1), default=224, metavar="PIXELS")
    measure.add_arguments(parser, "training")
    arguments = parser.parse_args(argv)
    measure.run(arguments, compare)


def compare(arguments: argparse.Namespace) -> dict:
    """Measures and prints a table for each batch size; returns all figures."""
    return measure.compare("training", arguments, [arguments.size])


if __name__ == "__main__":
    sys.exit(main())
