"""Images per second of `keras-cvt predict` and of the model alone: `python -m benchmarks.predict`.

CvT-13 with random weights and real photos: the twenty that foolbox brings, 512x512 pixels, and larger
versions of them (--sides). The contenders take turns in one process, so that their ratio is that of one
run, on however busy a machine:

    one after the other   a batch is decoded, then computed, as it was up to 2026-11-27
    ahead in threads      `keras_cvt.inference`: decoded in threads while the model computes
    decoding alone        in as many threads, without a model
    model alone           on images that are there
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import measure as shared
from benchmarks.measure import BenchmarkError
from keras_cvt._commands import WRONG_USE, Parser, command, integer
from keras_cvt._tables import markdown
from training import startup

BEFORE, AHEAD = "one after the other", "ahead in threads"


@command("benchmarks.predict", {BenchmarkError: WRONG_USE, ImportError: WRONG_USE})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 2 can't be done as asked."""
    parser = Parser(prog="benchmarks.predict", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=integer(3), default=5, metavar="N", help="default: 5")
    parser.add_argument("--batch-size", type=integer(1), default=8, metavar="N", help="default: 8")
    parser.add_argument(
        "--images", type=integer(8), default=40, metavar="N", help="in a turn; default: 40"
    )
    parser.add_argument(
        "--sides",
        type=integer(32),
        nargs="+",
        default=[512, 2048],
        metavar="PIXELS",
        help="of the square photos; default: 512 2048",
    )
    arguments = parser.parse_args(argv)
    startup.quiet_tensorflow()
    shared.print_facts({**shared.machine(), "batch": arguments.batch_size})
    with tempfile.TemporaryDirectory() as folder:
        for side in arguments.sides:
            files = photos(Path(folder), side)
            sources = list(itertools.islice(itertools.cycle(files), arguments.images))
            rates = take_turns(contenders(sources, arguments), len(sources), arguments.rounds)
            print(f"\n{table(side, rates)}", flush=True)


def photos(folder: Path, side: int) -> list[str]:
    """foolbox's photos as JPEG files of so many pixels a side."""
    from PIL import Image

    from benchmarks import colour

    paths = []
    for photo in colour.photos():
        path = folder / f"{side}-{photo.name}"
        with Image.open(photo) as image:
            image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(
                path, quality=90
            )
        paths.append(str(path))
    return paths


def contenders(
    sources: Sequence[str], arguments: argparse.Namespace
) -> dict[str, Callable[[], object]]:
    import keras_cvt
    from keras_cvt import classification
    from keras_cvt.inference.answers import answer_batch, answer_files
    from keras_cvt.inference.decoding import decode, decoded, default_threads
    from keras_cvt.inference.runtimes import keras_runtime

    model = classification.with_probabilities(keras_cvt.CvT13(weights=None))
    preprocessing = classification.preprocessing_for(model, (224, 224), "official")
    runtime, batch = keras_runtime(model), arguments.batch_size
    ready = np.stack([decode(source, preprocessing).image for source in sources[:batch]])

    def one_after_the_other() -> None:
        for some in batches(sources, batch):
            answer_batch([decode(source, preprocessing) for source in some], runtime, batch)

    def ahead() -> None:
        for _ in answer_files(sources, preprocessing, runtime, batch):
            pass

    def decoding() -> None:
        with decoded(sources, preprocessing, batch + default_threads()) as pictures:
            for _ in pictures:
                pass

    def model_alone() -> None:
        for some in batches(sources, batch):
            runtime(ready[: len(some)], batch)

    return {
        BEFORE: one_after_the_other,
        AHEAD: ahead,
        "decoding alone": decoding,
        "model alone": model_alone,
    }


def batches(items: Iterable, size: int) -> Iterable[list]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def take_turns(
    contenders: dict[str, Callable[[], object]], images: int, rounds: int
) -> dict[str, list[float]]:
    """Images per second of each contender in each round; one more round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        # Back and forth: what the machine does meanwhile hits none of them more than others.
        for name in sorted(contenders, reverse=number % 2 == 1):
            start = time.perf_counter()
            contenders[name]()
            if number:
                rates[name].append(images / (time.perf_counter() - start))
    return rates


def table(side: int, rates: dict[str, list[float]]) -> str:
    """The medians, and the ratios of each round to the way it was before, as Markdown."""
    lines = [[f"{side}x{side} pixels", "images/s", f"to {BEFORE}", "lowest-highest"]]
    for name, found in rates.items():
        ratios = [a / b for a, b in zip(found, rates[BEFORE], strict=True)]
        lines.append(
            [
                name,
                f"{statistics.median(found):.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f}-{max(ratios):.2f}",
            ]
        )
    return "\n".join(markdown(lines))


if __name__ == "__main__":
    sys.exit(main())
