"""What `predict` and `embed` share: runtimes, engines, and answers in Parquet parts."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cvt import _commands
from keras_cvt._commands import UsageError
from keras_cvt._files import check_file, check_folder
from keras_cvt.inference.exported import RUNTIMES as EXPORTED

if TYPE_CHECKING:
    from keras_cvt.inference.jobs import Done
    from keras_cvt.inference.listing import Found
    from keras_cvt.inference.tasks import Work

ENGINES = ("local", "ray")
RUNTIMES = ("keras", *EXPORTED)
MODEL_HELP = (
    "cvt13, cvt21 or cvtw24; a .keras file with its weights; or what keras-cvt export wrote: .xml, "
    ".tflite or .onnx"
)

_EVERY = 30.0  # seconds from one line about progress to the next


def add_options(parser: argparse.ArgumentParser, outputs: Any) -> None:
    """The options of a job.

    Args:
        parser: Of the command.
        outputs: The group of options that say where the answers go.
    """
    parser.add_argument(
        "--batch-size", type=_commands.integer(1), default=8, metavar="N", help="default: 8"
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="what computes the model (default: by the ending of --model)",
    )
    outputs.add_argument(
        "--output",
        metavar="DIR",
        help="write Parquet parts to DIR, here or behind s3:// or gs://; the same command goes on "
        "where it was stopped",
    )
    outputs.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a table to FILE, which is replaced"
    )
    parser.add_argument("--engine", choices=ENGINES, default="local", help="default: local")
    ray = parser.add_argument_group("with --engine ray")
    ray.add_argument(
        "--address",
        help="of a cluster: auto, or ray://HOST:10001 (default: a Ray of its own on this machine)",
    )
    ray.add_argument(
        "--workers",
        type=_commands.integer(1),
        metavar="N",
        help="default: as many as there is room for",
    )
    ray.add_argument(
        "--cpus-per-worker",
        type=_commands.integer(1),
        metavar="N",
        help="default: those of the smallest node, up to 8",
    )
    ray.add_argument(
        "--gpus-per-worker", type=_commands.number(minimum=0), metavar="X", help="default: 0"
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Refuses options that don't fit each other, before the model is there.

    Raises:
        UsageError: Which says what does not fit.
        OSError: If the output can't be written.
        ModuleNotFoundError: If what it needs is not installed.
    """
    if arguments.runtime is None:
        suffix = Path(arguments.model).suffix
        fits = [name for name, (ending, _) in EXPORTED.items() if ending == suffix]
        arguments.runtime = fits[0] if fits else "keras"
    if arguments.runtime != "keras":
        for option in ("weights", "image_size"):
            if getattr(arguments, option) is not None:
                raise UsageError(
                    f"--{option.replace('_', '-')} is of Keras models: {arguments.model} has its own."
                )
    if arguments.engine == "ray":
        if arguments.output is None:
            raise UsageError("--engine ray writes Parquet parts: give --output DIR.")
        import ray  # noqa: F401
    else:
        for option in ("address", "workers", "cpus_per_worker", "gpus_per_worker"):
            if getattr(arguments, option) is not None:
                raise UsageError(f"--{option.replace('_', '-')} goes with --engine ray.")
    if arguments.csv:
        check_file(arguments.csv)
    if arguments.output is not None:
        import pyarrow  # noqa: F401

        if "://" not in arguments.output:
            check_folder(Path(arguments.output))
            if Path(arguments.output).is_file():
                raise UsageError(f"--output {arguments.output} is a file; it must be a folder.")


def find(arguments: argparse.Namespace) -> Found:
    """The images; tells what is left out."""
    from keras_cvt.inference.listing import find_images

    found = find_images(arguments.images)
    if found.left_out:
        print(f"{_program(arguments)}: {found.left_out}", file=sys.stderr)
    return found


def write_parts(arguments: argparse.Namespace, work: Work) -> int:
    """Does a job whose answers go to --output; returns the exit status."""
    from keras_cvt.inference.parts import Parts

    found = find(arguments)
    for why in found.empty.values():
        print(f"{_program(arguments)}: {why}", file=sys.stderr)
    if not found.images:
        raise ValueError("there are no images to read")
    parts = Parts(arguments.output)
    parts.begin(found.images, work.options(), arguments.batch_size)
    todo = parts.unfinished()
    errors = parts.errors(set(range(parts.chunks)) - set(todo))
    if len(todo) < parts.chunks:
        there = parts.chunks - len(todo)
        print(
            f"{_program(arguments)}: {there:,} of {parts.chunks:,} parts are there; going on",
            file=sys.stderr,
        )
    progress = _Progress(_program(arguments), sum(map(parts.size, todo)))
    start = time.monotonic()
    try:
        with progress, contextlib.closing(_engine(arguments, work, parts, progress)) as chunks:
            for done in chunks:
                errors += done.errors
                progress.add(done.images)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("The same command goes on from here.") from None
    seconds = time.monotonic() - start
    rate = f", {progress.done / seconds:.1f} images/s" if progress.done else ""
    print(
        f"{len(found.images):,} images, {progress.done:,} of them now{rate}; {errors:,} without an "
        f"answer; {parts.chunks:,} parts in {arguments.output}"
    )
    return 1 if errors or found.empty else 0


def _engine(arguments: argparse.Namespace, work: Work, parts: Any, progress: Any) -> Iterator[Done]:
    if arguments.engine == "local":
        from keras_cvt.inference.jobs import run_locally

        yield from run_locally(work, parts, arguments.batch_size)
        return
    from keras_cvt.inference import ray_engine

    workers = ray_engine.Workers(
        arguments.workers, arguments.cpus_per_worker, arguments.gpus_per_worker or 0
    )
    with ray_engine.connected(arguments.address, work.size):
        yield from ray_engine.run(work, parts, arguments.batch_size, workers, progress.say)


class _Progress:
    """A bar where somebody is looking; else a line now and then."""

    def __init__(self, program: str, total: int) -> None:
        from tqdm import tqdm

        self._program, self._total = program, total
        self._bar = tqdm(total=total, unit="image", disable=None)
        self._said = time.monotonic()
        self.done = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def add(self, images: int) -> None:
        self.done += images
        self._bar.update(images)
        if self._bar.disable and time.monotonic() - self._said > _EVERY:
            self._said = time.monotonic()
            self.say(f"{self.done:,} of {self._total:,} images")

    def say(self, line: str) -> None:
        self._bar.write(f"{self._program}: {line}", file=sys.stderr)


def _program(arguments: argparse.Namespace) -> str:
    return f"keras-cvt {arguments.command}"
