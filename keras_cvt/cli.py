"""The `keras-cvt` command."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

import keras_cvt
from keras_cvt import models, weights
from keras_cvt.complexity import Row, complexity
from keras_cvt.config import VARIANTS, stages_from_spec, unknown_choice
from keras_cvt.convert import KEYS, beside, check_folder, convert
from keras_cvt.predict import Prediction, find_images, predict_files


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `keras-cvt`; returns the exit status: 0; 1 if some images could not be read; 2 for wrong
    arguments and files that can't be used; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="keras-cvt", description="CvT, the Convolutional vision Transformer, for Keras 3."
    )
    parser.add_argument("--version", action="version", version=f"keras-cvt {keras_cvt.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    summary = commands.add_parser(
        "summary", help="parameters and multiply-adds of a model, layer by layer"
    )
    summary.add_argument("model", help="cvt13, cvt21 or cvtw24")
    summary.add_argument(
        "--image-size",
        type=_image_size,
        default=(224, 224),
        metavar="SIZE",
        help="in pixels: 384, or HEIGHTxWIDTH (default: 224)",
    )
    summary.add_argument("--classes", type=int, default=1000, help="default: 1000")
    summary.set_defaults(run=_summary)

    table = commands.add_parser("weights", help="the published weights, and their accuracy")
    table.set_defaults(run=_weights)

    conversion = commands.add_parser(
        "convert",
        help="a checkpoint in another format",
        description="Reads .pth, .pt, .bin, .safetensors, .weights.h5 and .keras; writes "
        ".safetensors, .weights.h5 and .keras.",
    )
    conversion.add_argument("source", metavar="SRC")
    conversion.add_argument("destination", metavar="DST")
    conversion.add_argument(
        "--keys",
        choices=KEYS,
        default="official",
        help="names in a .safetensors file (default: official)",
    )
    conversion.add_argument(
        "--spec",
        metavar="FILE",
        help="the configuration of a model that is no published variant, as JSON: the official "
        "options or Hugging Face's config.json",
    )
    conversion.set_defaults(run=_convert)

    predict = commands.add_parser("predict", help="the classes of images")
    predict.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    predict.add_argument("--model", required=True, help="cvt13, cvt21 or cvtw24")
    predict.add_argument(
        "--weights", default="imagenet", help="a published name or a file (default: imagenet)"
    )
    predict.add_argument("--top", type=int, default=5, metavar="K", help="default: 5")
    predict.add_argument(
        "--image-size", type=int, metavar="SIZE", help="pixels (default: the weights', else 224)"
    )
    predict.add_argument("--batch-size", type=int, default=8, metavar="N", help="default: 8")
    predict.add_argument(
        "--labels", metavar="FILE", help="a class name on each line (default: ImageNet's)"
    )
    output = predict.add_mutually_exclusive_group()
    output.add_argument("--csv", metavar="FILE", help="write a table to FILE")
    output.add_argument("--json", action="store_true", help="print JSON")
    predict.set_defaults(run=_predict)

    arguments = parser.parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"keras-cvt {arguments.command}: {error}", file=sys.stderr)
        return 2


def _image_size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither SIZE nor HEIGHTxWIDTH, as in 384x512"
        )
    return int(parts[0]), int(parts[-1])


def _variant(name: str) -> str:
    known = {variant.lower(): variant for variant in VARIANTS}
    key = name.lower().replace("-", "").replace("_", "")
    if key not in known:
        raise ValueError(unknown_choice("model", name, tuple(known)))
    return known[key]


def _weights(arguments: argparse.Namespace) -> int:
    print(weights.table())
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    stages = None
    if arguments.spec:
        stages = stages_from_spec(json.loads(Path(arguments.spec).read_text(encoding="utf-8")))
    convert(arguments.source, arguments.destination, arguments.keys, stages)
    print(f"wrote {arguments.destination}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    for option in ("top", "batch_size", "image_size"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be at least 1, not {value}")
    if arguments.csv:
        check_folder(Path(arguments.csv))
    variant = _variant(arguments.model)
    source = weights.find(arguments.weights, variant)
    labels = None
    if arguments.labels:
        lines = Path(arguments.labels).read_text(encoding="utf-8").rstrip().splitlines()
        labels = [(str(i), line.strip()) for i, line in enumerate(lines)]
    classes = 1000 if labels is None else len(labels)
    if arguments.top > classes:
        raise ValueError(f"--top {arguments.top}: there are {classes} classes")
    image_size, crop = 224, "official"
    if isinstance(source, weights.Published):
        image_size, crop = source.image_size, source.crop
    if arguments.image_size is not None:
        image_size, crop = arguments.image_size, "official"
    source = weights.open_weights(source)
    source.check_classes(classes)
    model = getattr(models, variant)(
        weights=source, classes=classes, input_shape=(image_size, image_size, 3)
    )
    sources = find_images(arguments.images)
    results: list[Prediction] = []
    status = 0
    # The bar goes to standard error, and only where somebody is looking.
    with tqdm(total=len(sources), unit="image", disable=None) as bar:
        try:
            for result in predict_files(
                model, sources, image_size, crop, arguments.top, arguments.batch_size, labels
            ):
                results.append(result)
                bar.update()
        except KeyboardInterrupt:
            print("keras-cvt predict: interrupted; this is what is done", file=sys.stderr)
            status = 130
    if arguments.json:
        print(json.dumps([_as_json(result) for result in results], indent=1, ensure_ascii=False))
    elif arguments.csv:
        _write_csv(Path(arguments.csv), results)
    else:
        for result in results:
            if result.classes:
                print(result.source)
                for label_id, label, score in result.classes:
                    print(f"  {score:7.2%}  {label} ({label_id})")
    broken = [result for result in results if result.error]
    for result in broken:
        print(f"keras-cvt predict: {result.error}", file=sys.stderr)
    if broken:
        print(
            f"keras-cvt predict: {len(broken)} of {len(results)} images could not be read",
            file=sys.stderr,
        )
    return status or (1 if broken else 0)


def _as_json(result: Prediction) -> dict:
    if result.error:
        return {"image": result.source, "error": result.error}
    keys = ("id", "label", "score")
    classes = [dict(zip(keys, row, strict=True)) for row in result.classes]
    return {"image": result.source, "classes": classes}


def _write_csv(path: Path, results: Sequence[Prediction]) -> None:
    with beside(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "rank", "id", "label", "score", "error"))
        for result in results:
            for rank, row in enumerate(result.classes or (), start=1):
                writer.writerow((result.source, rank, *row, ""))
            if result.error:
                writer.writerow((result.source, "", "", "", "", result.error))
    print(f"wrote {path}")


def _summary(arguments: argparse.Namespace) -> int:
    variant = _variant(arguments.model)
    if arguments.classes < 1:
        raise ValueError(f"--classes must be at least 1, not {arguments.classes}")
    height, width = arguments.image_size
    result = complexity(VARIANTS[variant], (height, width, 3), classes=arguments.classes)
    rows = result.by_layer()
    total = Row(
        "total", result.parameters, result.statistics, result.multiply_adds, result.computed
    )
    print(f"{arguments.model} at {height}x{width}, {arguments.classes} classes")
    line = "{:<20}{:>14}{:>12}{:>18}{:>18}".format
    print(line("layer", "parameters", "statistics", "multiply-adds", "computed"))
    for row in [*rows, total]:
        numbers = (row.parameters, row.statistics, row.multiply_adds, row.computed)
        print(line(row.name, *(f"{number:,}" for number in numbers)))
    print(
        f"\n{result.parameters / 1e6:.2f} M parameters. {result.multiply_adds / 1e9:.2f} G "
        f"multiply-adds, of which {result.computed / 1e9:.2f} G are computed:\nof its last block a "
        "classifier needs the class token only. Norms and activations are not counted."
    )
    return 0
