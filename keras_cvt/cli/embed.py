"""`keras-cvt embed`: a vector for each image."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from keras_cvt._commands import UsageError
from keras_cvt._files import replacing
from keras_cvt.cli import classifiers, jobs


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "embed",
        help="a vector for each image",
        description="Writes an embedding of each image: what the model's classifier reads, which is "
        "the class token where it has one.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE_OR_FOLDER")
    classifiers.add_model_options(parser, labels=False)
    parser.add_argument(
        "--layer",
        metavar="LEVEL",
        help="instead, the mean over the positions of a map of the feature pyramid: P2, P3 or P4",
    )
    jobs.add_options(parser, parser.add_mutually_exclusive_group(required=True))
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    jobs.check_options(arguments)
    if arguments.runtime != "keras":
        raise UsageError(
            f"embed needs a Keras model: a file for {arguments.runtime} gives probabilities alone."
        )
    work = _work(arguments)
    if arguments.output:
        return jobs.write_parts(arguments, work)
    return _write_csv(arguments, work)


def _work(arguments: argparse.Namespace) -> Any:
    model, image_size, crop = classifiers.open_model(arguments, None)
    from keras_cvt import classification
    from keras_cvt.inference.embedding import embedding_model
    from keras_cvt.inference.tasks import Embed, keras_work

    model = embedding_model(model, arguments.layer)
    image_size = classifiers.checked_size(arguments.model, model, image_size)
    preprocessing = classification.preprocessing_for(model, image_size, crop)
    task = Embed(preprocessing, model.output_shape[-1], arguments.layer or "")
    return keras_work(model, task)


def _write_csv(arguments: argparse.Namespace, work: Any) -> int:
    from keras_cvt.inference.answers import answer_files

    path: Path = arguments.csv
    found = jobs.find(arguments)
    broken = list(found.empty.values())
    answers = answer_files(
        found.images, work.task.preprocessing, work.runtime, arguments.batch_size
    )
    with (
        replacing(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(("image", "error", *range(work.task.size)))
        for answer in answers:
            values = () if answer.values is None else answer.values.astype("float32")
            writer.writerow((answer.source, answer.error or "", *values))
            if answer.error:
                broken.append(answer.error)
    for error in broken:
        print(f"keras-cvt embed: {error}", file=sys.stderr)
    print(f"wrote {path}")
    return 1 if broken else 0
