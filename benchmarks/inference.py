"""Images per second of CvT-13 at 224x224 against its peers: `python -m benchmarks.inference`.

Each contender is a process of its own; all are asked in turn for some batches, round after round. The
speed of a shared machine changes from minute to minute, so what counts is each contender's speed as a
ratio to the official PyTorch code's in the same round: its median over the rounds, and its quartiles.
Where other programs take the cores from time to time, the best round of each says more.

With --growth, how time and memory of the deployed model and of the official code grow with the size of
the images and of the batch: the exponent of the power of the pixels, or of the batch, that fits best.

Needs the environments that `make peers` makes. Takes some minutes. Exit status: 0 if done, 2 if it
can't be done as asked.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks import measure
from benchmarks.contenders import TORCH_EAGER, Job
from keras_cvt._commands import Parser, command, integer

GROWING = (TORCH_EAGER, "CvT13 deployed, graph")
SIZES = (224, 320, 448, 640, 1024)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


@command("benchmarks.inference", measure.STATUSES)
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status."""
    parser = Parser(prog="benchmarks.inference", description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=integer(1), nargs="+", default=[1, 8], metavar="N")
    parser.add_argument("--growth", action="store_true", help="measure growth instead")
    parser.add_argument(
        "--sizes", type=integer(32), nargs="+", default=SIZES, metavar="PIXELS", help="of --growth"
    )
    measure.add_arguments(parser, "inference")
    arguments = parser.parse_args(argv)
    if len(set(arguments.sizes)) < 2:
        parser.error("--sizes must be two or more different ones.")
    measure.run(arguments, growth if arguments.growth else compare)


def compare(arguments: argparse.Namespace) -> dict:
    """Measures and prints a table for each batch size; returns all figures."""
    return measure.compare("inference", arguments)


def growth(arguments: argparse.Namespace) -> dict:
    """Measures and prints how time and memory grow; returns all figures."""
    report: dict = {"threads": arguments.threads}
    for what, jobs in {
        "pixels": [(size * size, {"batch": 1, "size": size}) for size in arguments.sizes],
        "batch": [(batch, {"batch": batch}) for batch in BATCHES],
    }.items():
        print(f"\n| contender | {what} | ms | MB |\n| --- | --- | --- | --- |")
        exponents = []
        for name in GROWING:
            rows = []
            for amount, options in jobs:
                job = Job("inference", name, threads=arguments.threads, **options)
                (alone,) = measure.take_turns([job], arguments.rounds, arguments.seconds)
                seconds = job.batch / statistics.median(alone.rates)
                rows.append((amount, seconds, alone.bytes))
                shown = f"{job.size}x{job.size}" if what == "pixels" else amount
                print(
                    f"| {name} | {shown} | {1000 * seconds:.0f} | {alone.bytes / 1e6:.0f} |",
                    flush=True,
                )
            report[f"{name}, {what}"] = rows
            time, memory = (exponent(rows, column) for column in (1, 2))
            exponents.append(
                f"{name}: time grows as {what}^{time:.2f}, memory as {what}^{memory:.2f}"
            )
        print("\n" + "\n".join(exponents), flush=True)
    return report


def exponent(rows: list[tuple[float, ...]], column: int) -> float:
    """The power that fits best, on logarithmic axes: a straight line's slope."""
    amounts, values = (np.log([row[i] for row in rows]) for i in (0, column))
    return float(np.polyfit(amounts, values, 1)[0])


if __name__ == "__main__":
    sys.exit(main())
