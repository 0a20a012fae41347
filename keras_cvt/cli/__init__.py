"""The `keras-cvt` command."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

import keras_cvt
from keras_cvt import export, imagenet, models, structure, weights
from keras_cvt._files import check_file, check_folder, check_new, replacing, write_text
from keras_cvt._validation import unknown_choice
from keras_cvt.analysis import attention
from keras_cvt.analysis.complexity import Row, complexity
from keras_cvt.analysis.diagram import draw
from keras_cvt.architecture import VARIANTS, StageConfig, stages_from_spec
from keras_cvt.inference.predict import Prediction, find_images, predict_files
from keras_cvt.weights.convert import KEYS, convert

PICTURES = (".png", ".jpg", ".pdf", ".svg")  # that matplotlib writes


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
    _add_design_options(summary)
    summary.set_defaults(run=_summary)

    drawing = commands.add_parser(
        "draw", help="a picture of a model's architecture: stages, shapes, multiply-adds"
    )
    _add_design_options(drawing)
    drawing.add_argument("--output", required=True, metavar="FILE.svg", help="a new file")
    drawing.set_defaults(run=_draw)

    table = commands.add_parser("weights", help="the published weights, and their accuracy")
    table.set_defaults(run=_weights)

    conversion = commands.add_parser(
        "convert",
        help="a checkpoint in another format",
        description="Reads .pth, .pt, .bin, .safetensors, .weights.h5 and .keras; writes "
        ".safetensors, .weights.h5 and .keras.",
    )
    conversion.add_argument("source", metavar="SRC")
    conversion.add_argument(
        "destination", metavar="DST", help="a file, which is replaced if it is there"
    )
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
    _add_classifier_options(predict)
    predict.add_argument("--batch-size", type=int, default=8, metavar="N", help="default: 8")
    output = predict.add_mutually_exclusive_group()
    output.add_argument("--csv", metavar="FILE", help="write a table to FILE, which is replaced")
    output.add_argument("--json", action="store_true", help="print JSON")
    predict.set_defaults(run=_predict)

    explain = commands.add_parser(
        "explain",
        help="where a model looks in an image",
        description="Names the classes of an image, and draws over it the class token's attention in "
        "each block of the last stage, and rollout over all of them. Needs matplotlib.",
    )
    explain.add_argument("image", metavar="IMAGE")
    _add_classifier_options(explain)
    explain.add_argument(
        "--output", required=True, metavar="FILE", help=f"a new file: {', '.join(PICTURES)}"
    )
    explain.set_defaults(run=_explain)

    exporting = commands.add_parser(
        "export",
        help="a model for another runtime",
        description="Writes a classifier as a SavedModel for TensorFlow Serving, or for LiteRT, ONNX "
        "or OpenVINO, and proves in that runtime that it answers as Keras does.",
    )
    _add_model_options(exporting)
    exporting.add_argument("--format", required=True, help=", ".join(export.FORMATS))
    exporting.add_argument(
        "--output",
        required=True,
        metavar="PATH",
        help="a file; for a SavedModel the folder of its versions",
    )
    exporting.add_argument(
        "--any-size", action="store_true", help="take images of other heights and widths, too"
    )
    exporting.add_argument(
        "--crop",
        type=_crop,
        default=argparse.SUPPRESS,
        metavar="SHARE",
        help="the share of a picture's side that is seen, or none: the whole picture is squeezed "
        "(default: the weights', else as the official evaluation)",
    )
    for name, what in (("mean", "means"), ("std", "standard deviations")):
        exporting.add_argument(
            f"--{name}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"the channels' {what}, of pixels divided by 255 (default: ImageNet's)",
        )
    exporting.add_argument(
        "--version", type=int, metavar="N", help="of a SavedModel (default: the next free one)"
    )
    exporting.add_argument(
        "--quantize",
        default="none",
        help=f"of a LiteRT file: {', '.join(export.QUANTIZATIONS)} (default: none)",
    )
    exporting.add_argument(
        "--calibration", metavar="FOLDER", help="some hundred typical images, for int8"
    )
    exporting.add_argument(
        "--batch-size", type=int, metavar="N", help="of a LiteRT file (default: 1)"
    )
    exporting.add_argument(
        "--tolerance",
        type=float,
        metavar="X",
        help="the largest difference from Keras' probabilities, as a share of the largest of them "
        f"(default: {', '.join(f'{name} {x:g}' for name, x in export.QUANTIZATIONS.items())})",
    )
    exporting.set_defaults(run=_export)

    arguments = parser.parse_args(argv)
    # Names of files need not be text.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print(f"keras-cvt {arguments.command}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"keras-cvt {arguments.command}: {error}", file=sys.stderr)
        return 2


def _add_design_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model",
        help="cvt13, cvt21 or cvtw24; or a .json file with another configuration: the official "
        "options or Hugging Face's config.json",
    )
    command.add_argument(
        "--image-size",
        type=_image_size,
        default=(224, 224),
        metavar="SIZE",
        help="in pixels: 384, or HEIGHTxWIDTH (default: 224)",
    )
    command.add_argument("--classes", type=int, default=1000, help="default: 1000")


def _add_classifier_options(command: argparse.ArgumentParser) -> None:
    _add_model_options(command)
    command.add_argument(
        "--top", type=int, metavar="K", help="default: 5, or all if they are fewer"
    )


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", required=True, help="cvt13, cvt21 or cvtw24; or a .keras file with its weights"
    )
    command.add_argument(
        "--weights", help="a published name or a file (default: imagenet; none for a .keras file)"
    )
    command.add_argument(
        "--image-size",
        type=_image_size,
        metavar="SIZE",
        help="in pixels: 384, or HEIGHTxWIDTH (default: the model's or the weights', else 224)",
    )
    command.add_argument(
        "--labels", metavar="FILE", help="a class name on each line (default: ImageNet's)"
    )


def _image_size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither SIZE nor HEIGHTxWIDTH, as in 384x512"
        )
    if not all(map(int, parts)):
        raise argparse.ArgumentTypeError(f"{text!r}: an image has at least one pixel")
    return int(parts[0]), int(parts[-1])


def _crop(text: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def _variant(name: str) -> str:
    known = {variant.lower(): variant for variant in VARIANTS}
    key = name.lower().replace("-", "").replace("_", "")
    if key not in known:
        raise ValueError(unknown_choice("model", name, tuple(known)))
    return known[key]


def _spec(path: str) -> list[StageConfig]:
    try:
        spec = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # also of text that is no UTF-8
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(spec, dict):
        raise ValueError(f"{path} must hold a JSON object of options, not a {type(spec).__name__}.")
    return stages_from_spec(spec)


def _weights(arguments: argparse.Namespace) -> int:
    print(weights.table())
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    stages = None
    if arguments.spec:
        stages = _spec(arguments.spec)
    convert(arguments.source, arguments.destination, arguments.keys, stages)
    print(f"wrote {arguments.destination}")
    return 0


@dataclasses.dataclass(frozen=True)
class _Classifier:
    """A model, and how pictures come to it and classes to their names."""

    model: keras.Model
    image_size: tuple[int, int]
    crop: float | str | None
    labels: list[tuple[str, str]] | None


def _check_positive(arguments: argparse.Namespace, *options: str) -> None:
    for option in options:
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be at least 1, not {value}")


def _classifier(arguments: argparse.Namespace) -> _Classifier:
    labels = _labels(arguments)
    classes = 1000 if labels is None else len(labels)
    if arguments.top is None:
        arguments.top = min(5, classes)
    if arguments.top > classes:
        raise ValueError(f"--top {arguments.top}: there are {classes} classes")
    model, image_size, crop = _opened(arguments, classes)
    structure.stage_configs(model)  # says what is no CvT
    *sides, channels = model.input_shape[1:]
    if channels != 3:
        raise ValueError(
            f"{arguments.model} takes images of {channels} channels; pictures are read as RGB."
        )
    if model.output_shape[1:] != (classes,):
        raise ValueError(
            f"{arguments.model} must be a classifier of {classes} classes, as many as there are "
            f"{'ImageNet classes' if labels is None else 'labels'}. Its output is "
            f"{model.output_shape}. --labels FILE names other classes."
        )
    if image_size is None:
        image_size = tuple(side or 224 for side in sides)
    elif not all(side in (None, size) for side, size in zip(sides, image_size, strict=True)):
        raise ValueError(
            f"{arguments.model} takes images of {sides[0]}x{sides[1]} pixels, not "
            f"{image_size[0]}x{image_size[1]}: leave out --image-size."
        )
    if getattr(model.layers[-1], "activation", None) is keras.activations.linear:
        model = keras.Model(model.input, keras.layers.Softmax()(model.output), name=model.name)
    named = None if labels is None else [(str(i), label) for i, label in enumerate(labels)]
    return _Classifier(model, image_size, crop, named)


def _predict(arguments: argparse.Namespace) -> int:
    _check_positive(arguments, "top", "batch_size")
    if arguments.csv:
        check_file(Path(arguments.csv))
    classifier = _classifier(arguments)
    sources = find_images(arguments.images)
    results: list[Prediction] = []
    status = 0
    # The bar goes to standard error, and only where somebody is looking.
    with tqdm(total=len(sources), unit="image", disable=None) as bar:
        try:
            for result in predict_files(
                classifier.model,
                sources,
                classifier.image_size,
                classifier.crop,
                arguments.top,
                arguments.batch_size,
                classifier.labels,
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
            _print_classes(result)
    broken = [result for result in results if result.error]
    for result in broken:
        print(f"keras-cvt predict: {result.error}", file=sys.stderr)
    if broken:
        print(
            f"keras-cvt predict: {len(broken)} of {len(results)} images could not be read",
            file=sys.stderr,
        )
    return status or (1 if broken else 0)


def _print_classes(result: Prediction) -> None:
    if result.classes:
        print(result.source)
        for label_id, label, score in result.classes:
            print(f"  {score:7.2%}  {label} ({label_id})")


def _explain(arguments: argparse.Namespace) -> int:
    _check_positive(arguments, "top")
    output = _new_file(arguments.output, PICTURES)
    attention.import_matplotlib()
    # Before the weights are fetched; a URL is asked for only afterwards.
    if "://" not in arguments.image and not Path(arguments.image).is_file():
        raise FileNotFoundError(f"There is no image {arguments.image}.")
    classifier = _classifier(arguments)
    image = imagenet.load_image(arguments.image, classifier.image_size, classifier.crop)
    maps = attention.attention_maps(classifier.model, imagenet.preprocess_input(image[np.newaxis]))
    (result,) = predict_files(
        classifier.model,
        [arguments.image],
        classifier.image_size,
        classifier.crop,
        arguments.top,
        batch_size=1,
        labels=classifier.labels,
    )
    if result.error:
        raise ValueError(result.error)
    _print_classes(result)
    figure = attention.plot_attention(image, maps)
    with replacing(output, overwrite=False) as temporary:
        figure.savefig(temporary, dpi=150)
    print(f"wrote {output}")
    return 0


def _new_file(text: str, suffixes: Sequence[str]) -> Path:
    """A file to write, of which is known before the work that it can be, and that nothing is lost."""
    path = Path(text)
    check_folder(path)
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--output must end in {' or '.join(suffixes)}, not {path.name}")
    check_new(path)
    return path


def _labels(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.labels is None:
        return None
    try:
        lines = Path(arguments.labels).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{arguments.labels} is no text in UTF-8: {error}") from None
    return [line.strip() for line in lines]


def _opened(
    arguments: argparse.Namespace, classes: int
) -> tuple[keras.Model, tuple[int, int] | None, float | str | None]:
    """The model that is meant, with all its weights, the classifier's included; the image size that was
    asked for, else the weights', else None for a `.keras` file; and the crop that belongs to it."""
    size = arguments.image_size
    if arguments.model.endswith(".keras"):
        if arguments.weights is not None:
            raise ValueError(f"{arguments.model} has its own weights: leave out --weights.")
        return _loaded(arguments.model), size, "official"
    variant = _variant(arguments.model)
    source = weights.find(arguments.weights or "imagenet", variant)
    crop: float | str | None = "official"
    if size is None and isinstance(source, weights.Published):
        size, crop = (source.image_size, source.image_size), source.crop
    size = size or (224, 224)
    source = weights.open_weights(source)
    source.check_classes(classes)
    model = getattr(models, variant)(weights=source, classes=classes, input_shape=(*size, 3))
    return model, size, crop


def _loaded(path: str) -> keras.Model:
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # of a damaged file, or one with unknown layers, of any kind
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} can't be loaded: {reason}") from error


def _export(arguments: argparse.Namespace) -> int:
    options = {
        name: getattr(arguments, name)
        for name in ("version", "quantize", "calibration", "batch_size", "tolerance")
    }
    # What can be known before the model is there: it may be a download of a gigabyte.
    export.check(arguments.format, arguments.output, **options)
    labels = _labels(arguments)
    model, image_size, crop = _opened(arguments, 1000 if labels is None else len(labels))
    exported = export.export(
        model,
        arguments.format,
        arguments.output,
        labels=labels,
        image_size=image_size,
        crop=getattr(arguments, "crop", crop),
        mean=arguments.mean,
        std=arguments.std,
        any_size=arguments.any_size,
        **options,
    )
    print(
        f"wrote {exported.path} ({exported.bytes / 1e6:.1f} MB); its probabilities of a real picture "
        f"differ from Keras' by {exported.difference:.1e} of the largest"
    )
    return 0


def _as_json(result: Prediction) -> dict:
    if result.error:
        return {"image": result.source, "error": result.error}
    keys = ("id", "label", "score")
    classes = [dict(zip(keys, row, strict=True)) for row in result.classes]
    return {"image": result.source, "classes": classes}


def _write_csv(path: Path, results: Sequence[Prediction]) -> None:
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("image", "rank", "id", "label", "score", "error"))
        for result in results:
            for rank, row in enumerate(result.classes or (), start=1):
                writer.writerow((result.source, rank, *row, ""))
            if result.error:
                writer.writerow((result.source, "", "", "", "", result.error))
    print(f"wrote {path}")


def _design(arguments: argparse.Namespace) -> tuple[str, Sequence[StageConfig]]:
    """What to call the model that is meant, and its stages."""
    if arguments.classes < 1:
        raise ValueError(f"--classes must be at least 1, not {arguments.classes}")
    if arguments.model.endswith(".json"):
        return Path(arguments.model).stem, _spec(arguments.model)
    variant = _variant(arguments.model)
    return variant, VARIANTS[variant]


def _draw(arguments: argparse.Namespace) -> int:
    output = _new_file(arguments.output, (".svg",))
    name, stages = _design(arguments)
    text = draw(stages, (*arguments.image_size, 3), arguments.classes, title=name)
    write_text(output, text, overwrite=False)
    print(f"wrote {output}")
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    _, stages = _design(arguments)
    height, width = arguments.image_size
    result = complexity(stages, (height, width, 3), classes=arguments.classes)
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
        f"multiply-adds, of which {result.computed / 1e9:.2f} G are computed"
        + (
            ":\nof its last block a classifier needs the class token only. "
            if result.computed < result.multiply_adds
            else ".\n"
        )
        + "Norms and activations are not counted."
    )
    return 0
