"""Evaluates a model on labeled images: top-1 and top-5 accuracy, and loss.

    python -m training.evaluate --model cvt13 --weights imagenet --data tfds:imagenet2012
    python -m training.evaluate --model runs/digits

A model is a published one (cvt13, cvt21, cvtw24) with `--weights`, a published name or a checkpoint,
or a .keras file; or the folder of a finished run, whose validation images are the default of `--data`.
What a file has is evaluated as it is: its own graph, with its head and pooling, in its own precision
unless --precision names another. It must end in logits or a softmax.

Sources are those of `training.data.sources`. Among them, for models of ImageNet-1k's classes:

    tfds:imagenet2012        the 50,000 validation images
    tfds:imagenet2012_real   the same with the labels of ReaL (Beyer et al. 2020): any of an image's
                             labels is right, and images without labels do not count
    tfds:imagenet_v2         ImageNet-V2, matched frequency (Recht et al. 2019)
    folder:PATH              class folders, named by synsets or 0 to 999; of synsets, some do too

The labels are matched by the classes' names, which models and published weights have: docs/classes.md.

An image counts exactly once, on any number of devices, unless it has no label or can't be read. The
loss is the cross-entropy; of several labels, each has an equal share.

Images are decoded and resized as `keras_cvt.load_image` does it: docs/pictures.md says how closely.
ImageNet's own are not turned upright, nor are they in the official evaluation; see --orientation.

Exit status: 0 done; 1 failed, as when the disk is full or a file can't be read; 2 can't be done as
asked; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from keras_cvt._commands import WRONG_USE, Parser, command, crop, read_labels
from keras_cvt._files import check_file, write_json
from keras_cvt._messages import one_line
from training import startup
from training.config import ORIENTATIONS, PRECISIONS, ConfigError
from training.evaluation.report import summary
from training.evaluation.settings import STRATEGIES, VARIANTS, Settings
from training.runs.folder import local

# TensorFlow, and Keras with it, takes seconds to import: only after the command line is understood.


@command(
    "training.evaluate",
    {ConfigError: WRONG_USE, OSError: WRONG_USE},
    interrupted="There is no result.",
)
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status."""
    options = _parser().parse_args(argv)
    _check(options)
    settings = _settings(options)
    startup.quiet_tensorflow()
    from training.evaluation.evaluation import evaluate

    report = evaluate(settings)
    if options.output is not None:
        write_json(options.output, report)
    print(summary(report))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="training.evaluate", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--model",
        required=True,
        type=local,
        help=f"{', '.join(VARIANTS)}, FILE.keras or the folder of a run",
    )
    parser.add_argument(
        "--weights", metavar="NAME|FILE", help="published, or a checkpoint; default: imagenet"
    )
    parser.add_argument(
        "--data", metavar="SOURCE", help="see training.data.sources; default: the run's"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="names of the model's classes, one on each line; default: those in the model",
    )
    parser.add_argument("--split", help="such as validation[:10%%]; default: the usual one")
    parser.add_argument("--data-dir", metavar="DIR", help="of prepared tfds data sets")
    parser.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="default: what the weights are for",
    )
    parser.add_argument(
        "--crop",
        type=crop,
        metavar="official|none|SHARE",
        help="share of the side that the centre crop leaves, from 0.01 to 1; none: the "
        "whole image, squeezed into a square; official: 0.875 below 384 pixels, else none; default: "
        "the run's, else official",
    )
    parser.add_argument(
        "--orientation",
        choices=ORIENTATIONS,
        help="exif: images are turned upright; ignore: as the official evaluation has it; default: the "
        "run's, else ignore for tfds:imagenet2012 and its ReaL labels, exif for others",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="of all devices; default 64",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--strategy", choices=STRATEGIES, default="auto", help="the devices")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="for the report")
    parser.add_argument(
        "--max-damaged",
        type=int,
        default=100,
        metavar="N",
        help="so many images that can't be read are left out; one more is an error; default 100",
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    """Refuses what can be seen to be wrong without TensorFlow."""
    path = Path(options.model)
    if options.model in VARIANTS:
        if path.is_dir() and options.weights is None:
            raise ConfigError(
                f"--model {path} is a published model, and a folder here: add --weights imagenet for "
                f"the model, or say ./{path} for the folder."
            )
    else:
        if not path.is_dir() and not (path.is_file() and path.suffix == ".keras"):
            missing = "" if path.exists() else " There is no such file."
            raise ConfigError(
                f"--model must be {', '.join(VARIANTS)}, a .keras file or the folder of a run. "
                f"Received {options.model!r}.{missing}"
            )
        if options.weights is not None:
            raise ConfigError(f"--weights is for {', '.join(VARIANTS)}: {path} has its own.")
    if options.data is None and (options.model in VARIANTS or not path.is_dir()):
        raise ConfigError("--data must be given: only the folder of a run has images of its own.")
    if options.output is not None:
        check_file(options.output)


def _settings(options: argparse.Namespace) -> Settings:
    others = ("data", "labels", "output")
    asked = {key: value for key, value in vars(options).items() if key not in others}
    try:
        labels = read_labels(options.labels)
    except (ValueError, OSError) as error:
        raise ConfigError(one_line(error)) from None
    return Settings(source=options.data, labels=labels, **asked)


if __name__ == "__main__":
    sys.exit(main())
