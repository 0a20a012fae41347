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
from keras_cvt._files import json_text, replacing
from keras_cvt.cli import classifiers, jobs

if TYPE_CHECKING:
    from keras_cvt.inference.predict import Prediction
    from keras_cvt.inference.tasks import Work


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("predict", help="the classes of images")
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    classifiers.add_options(parser, model=jobs.MODEL_HELP)
    output = parser.add_mutually_exclusive_group()
    jobs.add_options(parser, output)
    output.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    jobs.check_options(arguments)
    work = _work(arguments)
    if arguments.output:
        return jobs.write_parts(arguments, work)
    results, status = _predicted(work, arguments)
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


def _work(arguments: argparse.Namespace) -> Work:
    """The model that is meant, in its runtime."""
    from keras_cvt.inference import tasks

    if arguments.runtime == "keras":
        classifier = classifiers.open_classifier(arguments)
        task = tasks.Predict(classifier.preprocessing, tuple(classifier.labels), classifier.top)
        return tasks.keras_work(classifier.model, task)
    labels = _commands.read_labels(arguments.labels)
    if labels is not None:
        from keras_cvt.images.labels import with_ids

        labels = with_ids(labels)
    work = tasks.exported_work(arguments.runtime, arguments.model, labels, arguments.top)
    classifiers.check_top(work.task.top, len(work.task.labels))
    return work


def _predicted(work: Work, arguments: argparse.Namespace) -> tuple[list[Prediction], int]:
    """All predictions; or, with the exit status of Ctrl-C, those that were there by then."""
    from tqdm import tqdm

    from keras_cvt.inference.answers import answer_files
    from keras_cvt.inference.predict import Prediction, prediction

    found = jobs.find(arguments)
    batch_size = min(arguments.batch_size, max(1, len(found.images)))
    results = [Prediction(folder, error=why) for folder, why in found.empty.items()]
    # The bar goes to standard error, and only where somebody is looking.
    with tqdm(total=len(found.images), unit="image", disable=None) as bar:
        try:
            for answer in answer_files(
                found.images, work.task.preprocessing, work.runtime, batch_size
            ):
                results.append(prediction(answer, work.task))
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
