"""`keras-cvt explain`: where a model looks in an image."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from keras_cvt import _commands, _figures
from keras_cvt.cli import classifiers
from keras_cvt.cli.predict import print_classes


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "explain",
        help="where a model looks in an image",
        description="Names the classes of an image, and draws over it the class token's attention in "
        "each block of the last stage, and rollout over all of them. Needs matplotlib.",
    )
    parser.add_argument("image", metavar="IMAGE")
    classifiers.add_options(parser)
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"a new file: {', '.join(_figures.SUFFIXES)}",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    _commands.check_new_file(arguments.output, _figures.SUFFIXES)
    _figures.import_matplotlib()
    # Before the weights are fetched; a URL is asked for only afterwards.
    if "://" not in arguments.image and not Path(arguments.image).is_file():
        raise FileNotFoundError(f"There is no image {arguments.image}.")
    classifier = classifiers.open_classifier(arguments)

    import numpy as np

    from keras_cvt.analysis.attention import attention_maps, plot_attention
    from keras_cvt.images.load import load
    from keras_cvt.images.transform import normalize
    from keras_cvt.inference.predict import predict_files

    image = load(arguments.image, classifier.preprocessing)
    preprocessing = classifier.preprocessing
    pixels = normalize(image[np.newaxis], preprocessing.mean, preprocessing.std)
    maps = attention_maps(classifier.model, pixels)
    (result,) = predict_files(
        classifier.model,
        [arguments.image],
        preprocessing=classifier.preprocessing,
        top=classifier.top,
        batch_size=1,
        labels=classifier.labels,
    )
    if result.error:
        raise ValueError(result.error)
    print_classes(result)
    _figures.save(plot_attention(image, maps), arguments.output, dpi=150, overwrite=False)
    print(f"wrote {arguments.output}")
