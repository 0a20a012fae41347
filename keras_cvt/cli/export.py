"""`keras-cvt export`: a model for another runtime."""

from __future__ import annotations

import argparse
from typing import Any

from keras_cvt import _backend, _commands, export
from keras_cvt.cli import classifiers

# Of `keras_cvt.export.export`, and known before the model is there.
_OPTIONS = ("version", "quantize", "calibration", "batch_size", "tolerance")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="a model for another runtime",
        description="Writes a classifier as a SavedModel for TensorFlow Serving, or for LiteRT, ONNX "
        "or OpenVINO, and verifies in that runtime that it answers as Keras does.",
    )
    classifiers.add_model_options(parser)
    parser.add_argument("--format", required=True, help=", ".join(export.FORMATS))
    parser.add_argument(
        "--output",
        required=True,
        metavar="PATH",
        help="a file; for a SavedModel the folder of its versions",
    )
    _add_picture_options(parser)
    _add_format_options(parser)
    parser.set_defaults(run=run)


def _add_picture_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--any-size", action="store_true", help="take images of other heights and widths, too"
    )
    parser.add_argument(
        "--crop",
        type=_commands.crop,
        metavar="SHARE",
        help="the share of a picture's side that is seen; none: the whole picture is squeezed; "
        "official: as the official evaluation (default: the weights', else official)",
    )
    for name, what in (("mean", "means"), ("std", "standard deviations")):
        parser.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"the channels' {what}, of pixels divided by 255 (default: ImageNet's)",
        )


def _add_format_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--version", type=int, metavar="N", help="of a SavedModel (default: the next free one)"
    )
    parser.add_argument(
        "--quantize",
        default="none",
        help=f"of a LiteRT file: {', '.join(export.QUANTIZATIONS)} (default: none)",
    )
    parser.add_argument(
        "--calibration", metavar="FOLDER", help="some hundred typical images, for int8"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="of a LiteRT file (default: 1)")
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="the largest difference from Keras' probabilities, as a share of the largest of them "
        f"(default: {', '.join(f'{name} {x:g}' for name, x in export.QUANTIZATIONS.items())})",
    )


def run(arguments: argparse.Namespace) -> None:
    options = {name: getattr(arguments, name) for name in _OPTIONS}
    if arguments.format in export.FORMATS:  # else it is refused, for which nobody is to wait
        _backend.start_quietly()
    # What can be known before the model is there: it may be a download of a gigabyte.
    export.check(arguments.format, arguments.output, **options)
    labels = _commands.read_labels(arguments.labels)
    model, image_size, crop = classifiers.open_model(arguments, labels)
    classifiers.name_classes(arguments.model, model, labels)
    crop = arguments.crop or crop
    exported = export.export(
        model,
        arguments.format,
        arguments.output,
        labels=labels,
        image_size=image_size,
        crop=None if crop == "none" else crop,
        mean=arguments.mean,
        std=arguments.std,
        any_size=arguments.any_size,
        **options,
    )
    print(
        f"wrote {exported.path} ({exported.bytes / 1e6:.1f} MB); its probabilities of a real picture "
        f"differ from Keras' by {exported.difference:.1e} of the largest"
    )
