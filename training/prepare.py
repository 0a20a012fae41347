"""Turns images into record files, which are read faster than single files, and from far away.

    python -m training.prepare tfds:NAME[/CONFIG] [--data-dir DIR] [--tars DIR] [--format FORMAT]
    python -m training.prepare folder:PATH --output DIR [--format FORMAT] [--shard-size MB]
    python -m training.prepare tars:PATH --output DIR [--format FORMAT] [--shard-size MB]

`tfds:` runs the data set's own builder of tensorflow_datasets, which begins anew if it was stopped.
Where the files can't be downloaded without you, DIR of --tars has them: for imagenet2012,
ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar. The result is then the source `tfds:NAME`.

`folder:` takes the images of a source of that name, see `training.data.sources`. `tars:` takes
ImageNet's two tars, without unpacking them, or for other releases such as ImageNet-22k a folder of
nXXXXXXXX.tar or of tars of these. Both write what tensorflow_datasets reads, in an order shuffled once,
images as they are; the result is the source `tfds:DIR`. The same command again goes on where it was
stopped, and ends with the same bytes. Every image is decoded once: those that can't be are left out,
and listed in DIR/damaged.txt.

FORMAT is tfrecord (the default), which is read in long streams, or array_record, which can be read
in any order, from local disks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_cvt._commands import FAILED, WRONG_USE, Parser, command, integer
from training import startup
from training.config import ConfigError

FORMATS = ("tfrecord", "array_record")

SHARD_SIZE = 256  # MB


@command("training.prepare", {ConfigError: WRONG_USE, OSError: FAILED})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status.

    0 done; 1 failed, as when the disk is full; 2 can't be done as asked; 130 interrupted.
    """
    arguments = _parser().parse_args(argv)
    kind, _, place = arguments.source.partition(":")
    _check(arguments, kind, place)
    startup.quiet_tensorflow()
    then = "begins anew" if kind == "tfds" else "goes on from here"
    try:
        print(_prepared(arguments, kind, place))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"The same command {then}.") from None


def _prepared(arguments: argparse.Namespace, kind: str, place: str) -> str:
    """Writes the record files; returns what is written, in a few lines."""
    from training.data.records.folder import read_folder
    from training.data.records.tars import read_tars
    from training.data.records.tfds import prepare_tfds
    from training.data.records.writer import write_records

    if kind == "tfds":
        return prepare_tfds(place, arguments.data_dir, arguments.tars, arguments.format)
    output = Path(arguments.output)
    found = read_folder(place, output) if kind == "folder" else read_tars(place)
    size = arguments.shard_size * 10**6
    return write_records(*found, output, arguments.format, size)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="training.prepare", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("source", metavar="SOURCE", help="tfds:NAME, folder:PATH or tars:PATH")
    parser.add_argument("--output", metavar="DIR", help="for folder: and tars:")
    parser.add_argument("--data-dir", metavar="DIR", help="for tfds:, default: tfds' own")
    parser.add_argument("--tars", type=Path, metavar="DIR", help="for tfds:, files that you have")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    parser.add_argument(
        "--shard-size",
        type=integer(1),
        metavar="MB",
        help=f"of a file, about; default {SHARD_SIZE}",
    )
    return parser


def _check(arguments: argparse.Namespace, kind: str, place: str) -> None:
    """Refuses options that don't fit the source, and completes the others."""
    if kind not in ("tfds", "folder", "tars") or not place:
        raise ConfigError(
            "What to prepare must be tfds:NAME, folder:PATH or tars:PATH. Received "
            f"{arguments.source!r}."
        )
    needless = ("output", "shard_size") if kind == "tfds" else ("data_dir", "tars")
    for option in needless:
        if getattr(arguments, option) is not None:
            raise ConfigError(f"{kind}: has no --{option.replace('_', '-')}.")
    if kind != "tfds" and (arguments.output is None or "://" in arguments.output):
        raise ConfigError(f"{kind}: needs --output DIR, a folder of this machine.")
    arguments.shard_size = arguments.shard_size or SHARD_SIZE


if __name__ == "__main__":
    sys.exit(main())
