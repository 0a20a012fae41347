"""`keras-cvt predict`: the classes of images."""

from __future__ import annotations

import argparse
import codecs
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cvt import _commands
from keras_cvt._files import check_file, json_text, replacing
from keras_cvt.cli import classifiers

if TYPE_CHECKING:
    from keras_cvt.inference.predict import Prediction


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("predict", help="the classes of images")
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    classifiers.add_options(parser)
    parser.add_argument(
        "--batch-size", type=_commands.integer(1), default=8, metavar="N", help="default: 8"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a table to FILE, which is replaced"
    )
    output.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.csv:
        check_file(arguments.csv)
    classifier = classifiers.open_classifier(arguments)
    results, status = _predicted(classifier, arguments)
    if arguments.json:
        # An escape of the output's own would be none of JSON.
        encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
        options = {"indent": 1, "ensure_ascii": encoding != "utf-8"}
        text = json_text([_as_json(result) for result in results], **options)
        # JSON is UTF-8: other bytes in files' names are escaped.
        print(re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text))
    elif arguments.csv:
        _write_csv(arguments.csv, results)
    else:
        for result in results:
            print_classes(result)
    broken = [result for result in results if result.error]
    for result in broken:
        print(f"keras-cvt predict: {result.error}", file=sys.stderr)
    if broken:
        print(
            f"keras-cvt predict: {len(broken)} of {len(results)} images have no answer",
            file=sys.stderr,
        )
    return status or (1 if broken else 0)


def _predicted(
    classifier: classifiers.Classifier, arguments: argparse.Namespace
) -> tuple[list[Prediction], int]:
    """All predictions; or, with the exit status of Ctrl-C, those that were there by then."""
    from tqdm import tqdm

    from keras_cvt.inference.listing import find_images
    from keras_cvt.inference.predict import Prediction, predict_files

    found = find_images(arguments.images)
    if found.left_out:
        print(f"keras-cvt predict: {found.left_out}", file=sys.stderr)
    results = [Prediction(folder, error=why) for folder, why in found.empty.items()]
    # The bar goes to standard error, and only where somebody is looking.
    with tqdm(total=len(found.images), unit="image", disable=None) as bar:
        try:
            for result in predict_files(
                classifier.model,
                found.images,
                preprocessing=classifier.preprocessing,
                top=classifier.top,
                batch_size=arguments.batch_size,
                labels=classifier.labels,
            ):
                results.append(result)
                bar.update()
        except KeyboardInterrupt:
            print("keras-cvt predict: interrupted; this is what is done", file=sys.stderr)
            return results, _commands.INTERRUPTED
    return results, 0


def print_classes(result: Prediction) -> None:
    """Prints an image's classes, the likeliest first; nothing for one that can't be read."""
    if result.classes:
        print(result.source)
        for label_id, label, score in result.classes:
            print(f"  {score:7.2%}  {label} ({label_id})")


def _as_json(result: Prediction) -> dict[str, Any]:
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
