"""Draws what the model really sees: a contact sheet of a training batch.

    python -m training.show_batch --config digits --output sheet.png [--set key=value ...]

The pictures are the batch's, after all augmentation and mixing, with only the normalization undone.
Above each are its classes and their shares of the label, before smoothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cvt import _figures
from keras_cvt._commands import WRONG_USE, Parser, check_suffix, command, integer
from training import configs, startup
from training.config import Config, ConfigError

# TensorFlow and matplotlib take seconds to import: only after the command line is understood.


@command("training.show_batch", {ConfigError: WRONG_USE, OSError: WRONG_USE})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 1 failed, 2 can't be done as asked."""
    arguments = _parser().parse_args(argv)
    check_suffix(arguments.output, _figures.SUFFIXES)
    config = configs.load(arguments.config, arguments.set)
    startup.quiet_tensorflow()
    from training import data

    source = data.load(config)
    for line in source.left_out:
        print(line, file=sys.stderr)
    images, labels = _batch(config, source, arguments.batch)
    save(images, labels, source, arguments.output, arguments.images)
    print(f"{arguments.output}: batch {arguments.batch} of {arguments.config}.")


def _parser() -> Parser:
    parser = Parser(prog="training.show_batch", description=__doc__.split("\n")[0])
    configs.add_options(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=" or ".join(_figures.SUFFIXES)
    )
    parser.add_argument(
        "--batch", type=integer(0), default=0, metavar="N", help="its number in the run, from 0"
    )
    parser.add_argument(
        "--images", type=integer(1), default=32, metavar="N", help="at most so many; default 32"
    )
    return parser


def _batch(config: Config, source: Any, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a training batch.

    Args:
        source: What `training.data.load` returns.
        number: The batch's number in the run, from 0.

    Raises:
        ConfigError: If the run has no such batch, or too many images are damaged.
    """
    import tensorflow as tf

    from training import data

    damaged = data.Damaged(config.data.max_damaged)
    batches = data.training_batches(config, source, damaged, first_step=number)
    try:
        return next(iter(batches.as_numpy_iterator()))
    except tf.errors.OpError as error:
        raise damaged.error or error from None
    except StopIteration:
        raise ConfigError(
            f"`--batch` must be less than the number of the run's batches. Received {number}."
        ) from None


def save(images: np.ndarray, labels: np.ndarray, data: Any, path: Path, most: int = 32) -> None:
    """Draws the first images of a batch into a file.

    Args:
        images: float32 (batch, height, width, channels), normalized; channels 1 or 3.
        labels: float32 (batch, classes), each summing to 1.
        data: has `class_names`, and `mean` and `std` of the pixels from 0 to 1 if these are not 0.5.
        path: of the picture.
        most: how many images are drawn at most.
    """
    images, labels = images[: max(most, 1)], labels[: max(most, 1)]
    pixels = denormalized(images, getattr(data, "mean", 0.5), getattr(data, "std", 0.5))
    figure, places = _figures.image_grid(len(images), (1.9, 2.2))
    for axes, shown, label in zip(places, pixels, labels, strict=False):
        axes.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
        axes.set_title(caption(label, data.class_names), fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    _figures.save(figure, path, dpi=120)


def denormalized(images: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """Pixels from 0 to 1 of normalized images; what noise takes beyond that is cut off."""
    return np.clip(images * np.asarray(std) + np.asarray(mean), 0, 1)


def caption(label: np.ndarray, class_names: Sequence[str]) -> str:
    """A label's classes, the largest share first: "cat", or "cat 62 %" and "dog 38 %" below it.

    Smoothing, which gives all classes the same share more, is undone.
    """
    shares = label - label.min()
    shares = shares / shares.sum() if shares.sum() > 0 else label
    largest = [
        int(place) for place in np.argsort(-shares, kind="stable")[:3] if shares[place] >= 0.005
    ]
    names = [class_names[place][:24] for place in largest]
    if len(largest) == 1:
        return names[0]
    return "\n".join(
        f"{n} {shares[p]:.0%}".replace("%", " %") for n, p in zip(names, largest, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
