"""Judges a model by labelled images: top-1, top-5 and loss.

    python -m training.evaluate --model cvt13 --weights imagenet --data tfds:imagenet2012
    python -m training.evaluate --model runs/digits

A model is a published one (cvt13, cvt21, cvtw24) with `--weights`, a published name or a checkpoint; or
a .keras file; or the folder of a finished run, whose held-out images are the default of `--data`.

Sources are those of `training.data.sources`. Among them, for models of ImageNet-1k's classes:

    tfds:imagenet2012        the 50,000 validation images
    tfds:imagenet2012_real   the same with the labels of ReaL (Beyer et al. 2020): any of an image's
                             labels is right, and images without labels do not count
    tfds:imagenet_v2         ImageNet-V2, matched frequency (Recht et al. 2019)
    folder:PATH              class folders, named by synsets or 0 to 999; of synsets, some do too

An image counts exactly once, on any number of devices, unless it has no label or can't be read. The
loss is the cross-entropy; of several labels, each has an equal share.

Images are decoded and resized by TensorFlow, as in training. The official evaluation has Pillow, from
which that differs by 0.25 gray levels in the mean: some images near the border of two classes may go
to the other.

Exit status: 0 done, 2 can't be done as asked, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from training import config as configs
from training import startup
from training.config import Config, ConfigError
from training.files import write_text
from training.runs.folder import read_run
from training.runs.report import versions

# TensorFlow, and Keras with it, takes seconds to import: only after the command line is understood.

_VARIANTS = {"cvt13": "CvT13", "cvt21": "CvT21", "cvtw24": "CvTW24"}
_STRATEGIES = ("auto", "one_device", "mirrored")
_IMAGENET_CLASSES = 1000
# The data sets of the paper's Table 3: their split, and the figure of `keras_cvt.weights.Published`.
_OF_PAPER = {
    "tfds:imagenet2012": ("validation", "top1"),
    "tfds:imagenet2012_real": ("validation", "real"),
    "tfds:imagenet_v2": ("test", "v2"),
    "tfds:imagenet_v2/matched-frequency": ("test", "v2"),
}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    try:
        options = _parser().parse_args(argv)
        _check(options)
        startup.quiet_tensorflow()
        report = evaluate(options)
        if options.output is not None:
            write_text(options.output, json.dumps(report, indent=2) + "\n")
    except (ConfigError, OSError) as error:
        print(f"training.evaluate: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted: there is no result.", file=sys.stderr)
        return 130
    print(summary(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    def crop(text: str) -> float | str:
        if text in ("official", "none"):
            return text
        with contextlib.suppress(ValueError):
            if 0 < float(text) <= 1:
                return float(text)
        raise argparse.ArgumentTypeError(
            f"must be official, none, or more than 0 and at most 1. Received {text!r}."
        )

    parser = configs.OneLineErrors(
        prog="training.evaluate", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--model", required=True, help=f"{', '.join(_VARIANTS)}, FILE.keras or the folder of a run"
    )
    parser.add_argument(
        "--weights", metavar="NAME|FILE", help="published, or a checkpoint; default: imagenet"
    )
    parser.add_argument(
        "--data", metavar="SOURCE", help="see training.data.sources; default: the run's"
    )
    parser.add_argument("--split", help="such as validation[:10%%]; default: the usual one")
    parser.add_argument("--data-dir", metavar="DIR", help="of prepared tfds data sets")
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="default: what the weights are for"
    )
    parser.add_argument(
        "--crop",
        type=crop,
        metavar="official|none|SHARE",
        help="share of the side that the centre crop leaves, more than 0 and at most 1; none: the "
        "whole image, squeezed into a square; official: 0.875 below 384 pixels, else none; default: "
        "the run's, else official",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="of all devices; default 64")
    parser.add_argument("--precision", choices=configs.PRECISIONS, default="auto")
    parser.add_argument("--strategy", choices=_STRATEGIES, default="auto", help="the devices")
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
    """What can be said without TensorFlow."""
    path = Path(options.model)
    if options.model not in _VARIANTS:
        if not path.is_dir() and not (path.is_file() and path.suffix == ".keras"):
            missing = "" if path.exists() else " There is no such file."
            raise ConfigError(
                f"--model must be {', '.join(_VARIANTS)}, a .keras file or the folder of a run. "
                f"Received {options.model!r}.{missing}"
            )
        if options.weights is not None:
            raise ConfigError(f"--weights is for {', '.join(_VARIANTS)}: {path} has its own.")
    if options.data is None and not path.is_dir():
        raise ConfigError("--data must be given: only the folder of a run has images of its own.")
    if options.output is not None:
        if not options.output.parent.is_dir():
            raise ConfigError(f"--output: there is no folder {options.output.parent}.")
        if options.output.is_dir():
            raise ConfigError(f"--output must be a file. {options.output} is a folder.")


@dataclasses.dataclass(frozen=True)
class Subject:
    """The model to be judged, before its weights are read.

    Attributes:
        name: of the model.
        stages: its `keras_cvt.StageConfig`s.
        activation: of its MLPs.
        weights: what `keras_cvt.weights.open_weights` takes.
        classes: how many it tells apart.
        image_size: that its weights are for, in pixels.
    """

    name: str
    stages: Sequence[Any]
    activation: Any
    weights: Any
    classes: int
    image_size: int


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Does what the command's options say.

    Returns:
        The report. `top1`, `top5` and `paper_top1` are shares of 1; `paper_top1` is the paper's, where
        it has these weights, images, size and crop.

    Raises:
        ConfigError: if it can't be done as asked.
    """
    import keras
    import tensorflow as tf
    from tqdm import tqdm

    from keras_cvt import weights as weights_lib
    from training import data, distribute, sources
    from training.engine.devices import devices_for, policy_for
    from training.engine.step import Trainer

    # What is asked, checked before anything that takes long.
    run = read_run(Path(options.model))[0] if Path(options.model).is_dir() else None
    subject = find_model(options.model, options.weights)
    config = _config(options, subject, run)
    damaged = data.Damaged(config.data.max_damaged)
    strategy = devices_for(config)
    policy = policy_for(config)
    images = sources.load(
        config.data.source, "evaluation", config.data.validation_split, config.data.data_dir
    )
    split, count = images.split, images.count
    paper = paper_figure(subject, config, images)
    images = as_labelled_for(subject, config.data.source, images)

    # The model gives logits, of which the loss is more exact than of probabilities.
    with strategy.scope():
        cvt, file = build(subject, config.data.image_size, images.channels, policy)
        trainer = Trainer(cvt)
        trainer.compile(jit_compile=False)

    steps = math.ceil(count / config.optimization.batch_size)
    ends = []  # of the batches, in seconds

    def after_batch(batch: int, logs: dict[str, float]) -> None:
        ends.append(time.perf_counter())
        bar.update(
            min(config.optimization.batch_size, count - batch * config.optimization.batch_size)
        )

    batches = functools.partial(
        data.evaluation_batches, config.data, images, damaged, config.optimization.batch_size
    )
    begin = time.perf_counter()
    # The bar goes to standard error, and only where somebody is looking.
    with tqdm(total=count, unit=" images", disable=None) as bar:
        try:
            result = trainer.evaluate(
                distribute.distributed(strategy, batches),
                steps=steps,
                return_dict=True,
                verbose=0,
                callbacks=[keras.callbacks.LambdaCallback(on_test_batch_end=after_batch)],
            )
        except tf.errors.ResourceExhaustedError:
            raise ConfigError(
                f"The memory of the device is too small for --batch-size {options.batch_size}."
            ) from None
        except tf.errors.OpError as error:
            raise damaged.error or error from None
    seconds = time.perf_counter() - begin

    def total(variable: Any) -> int:
        return round(float(keras.ops.convert_to_numpy(variable)))

    counted = total(trainer.means["top1"].count)
    if not counted:
        raise ConfigError(
            f"None of the {count} images of {config.data.source} has a label that is known."
        )
    published = isinstance(subject.weights, weights_lib.Published)
    return {
        "model": subject.name,
        "weights": subject.weights.names[0] if published else str(subject.weights),
        "weights_revision": f"{subject.weights.repo}@{subject.weights.revision}"
        if published
        else None,
        "weights_sha256": _sha256(file),
        "data": config.data.source,
        "split": split,
        "images": counted,
        "images_without_labels": count - counted - len(damaged.names),
        "damaged_images": sorted(damaged.names),
        "top1": total(trainer.means["top1"].total) / counted,
        "top5": total(trainer.means["top5"].total) / counted,
        "paper_top1": paper,
        # JSON has no word for what overflowed.
        "loss": result["loss"] if math.isfinite(result["loss"]) else None,
        "image_size": config.data.image_size,
        "crop": config.data.evaluation_crop,
        "batch_size": config.optimization.batch_size,
        "precision": policy,
        "strategy": distribute.describe(strategy),
        "seconds": seconds,
        # Without the first batch, which includes TensorFlow's preparations.
        "images_per_second": (count - config.optimization.batch_size) / (ends[-1] - ends[0])
        if steps > 1
        else None,
        **versions(),
    }


def find_model(model: str, weights: str | None = None) -> Subject:
    """Finds the model that the command names.

    Args:
        model: as `--model`, and there.
        weights: as `--weights`.

    Raises:
        ConfigError: if there are no such weights, or what the file has is no classifier made by
            keras_cvt.
    """
    import keras

    from keras_cvt import structure
    from keras_cvt import weights as weights_lib
    from keras_cvt.architecture import VARIANTS

    if model in _VARIANTS:
        variant = _VARIANTS[model]
        with _as_config_error():
            found = weights_lib.find(weights or "imagenet", variant)
            if isinstance(found, weights_lib.Published):
                classes, size = _IMAGENET_CLASSES, found.image_size
            else:
                classes, size = weights_lib.open_weights(found).classes, 224
        if classes is None:
            raise ConfigError(f"{weights} has no classifier.")
        return Subject(variant, VARIANTS[variant], "quick_gelu", found, classes, size)

    file = Path(model)
    if file.is_dir():
        file = file / "model.keras"
    with _as_config_error():
        weights_lib.open_weights(file)  # says best what a file is that is no model
        try:
            loaded = keras.saving.load_model(file, compile=False)
        except Exception as error:  # of Keras, which has many kinds for a file that it can't read
            raise ConfigError(f"{file} can't be loaded: {error}") from None
        stages = structure.stage_configs(loaded)
    if len(loaded.output_shape) != 2 or "head" not in {layer.name for layer in loaded.layers}:
        raise ConfigError(f"{file} has no classifier.")
    return Subject(
        name=model,
        stages=stages,
        activation=loaded.get_layer("stage0_blocks_0").get_config()["activation"],
        weights=file,
        classes=loaded.output_shape[-1],
        image_size=loaded.input_shape[1] or 224,
    )


def _config(options: argparse.Namespace, subject: Subject, run: Config | None) -> Config:
    """What is asked, as far as a run's config has words for it."""
    import tensorflow as tf

    source, split, data_dir = options.data, options.split, options.data_dir
    size = subject.image_size if options.image_size is None else options.image_size
    crop = options.crop
    if run is not None:
        if source is None:
            source = run.validation_source or run.source
            split, data_dir = split or run.validation_split, data_dir or run.data_dir
        if crop is None:
            crop = "none" if run.evaluation_crop is None else run.evaluation_crop
    if crop in (None, "official"):
        crop = 0.875 if size < 384 else "none"
    # Not the machines of a cluster: each would report what it has.
    strategy = options.strategy
    if strategy == "auto":
        several = len(tf.config.list_physical_devices("GPU")) > 1
        strategy = "mirrored" if several else "one_device"
    return Config.from_dict(
        {
            "source": source,
            "validation_split": split,
            "data_dir": data_dir,
            "image_size": size,
            "evaluation_crop": None if crop == "none" else crop,
            "batch_size": options.batch_size,
            "precision": options.precision,
            "strategy": strategy,
            "max_damaged": options.max_damaged,
            # A config must have these, but evaluation does not ask for them.
            "model": "cvt13",
            "epochs": 1,
            "learning_rate": 1.0,
        }
    )


def paper_figure(subject: Subject, config: Config, images: Any) -> float | None:
    """The paper's top-1 accuracy in this very evaluation, from 0 to 1; None if it has none."""
    from keras_cvt import imagenet
    from keras_cvt.weights import Published

    row = subject.weights
    if not isinstance(row, Published):
        return None
    if (config.data.image_size, config.data.evaluation_crop) != (row.image_size, row.crop):
        return None
    name = re.sub(r":[\d.*]+$", "", config.data.source)  # without the version
    split, figure = _OF_PAPER.get(name, (None, None))
    if split == images.split:
        return round(getattr(row, figure) / 100, 4)
    all_of_folder = name.startswith("folder:") and images.split in ("validation", "train")
    if all_of_folder and images.synsets == imagenet.synsets() and images.count == 50_000:
        return round(row.top1 / 100, 4)
    return None


def as_labelled_for(subject: Subject, source: str, images: Any) -> Any:
    """The images with the labels that the model has for their classes.

    Args:
        source: the images' name, for messages.
        images: `training.data.sources.Images`.

    Raises:
        ConfigError: if the model does not have these classes.
    """
    import tensorflow as tf

    from keras_cvt import imagenet
    from keras_cvt.weights import Published

    count = len(images.class_names)
    if subject.classes == _IMAGENET_CLASSES and images.synsets is not None:
        places = {synset: place for place, synset in enumerate(imagenet.synsets())}
        labels = tf.constant([places[synset] for synset in images.synsets], tf.int64)

        def relabelled(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {**example, "labels": tf.gather(labels, example["labels"])}

        at, stream = images.at, images.stream
        return dataclasses.replace(
            images,
            class_names=imagenet.labels(),
            synsets=imagenet.synsets(),
            at=at and (lambda index: relabelled(at(index))),
            stream=stream and (lambda *share: stream(*share).map(relabelled)),
        )
    if count != subject.classes:
        hint = ""
        if subject.classes == _IMAGENET_CLASSES:
            hint = (
                " Some of ImageNet's classes are known by their synsets, such as n01440764, only."
            )
        raise ConfigError(
            f"{subject.name} tells {subject.classes} classes apart, but {source} has {count}.{hint}"
        )
    numbers = tuple(str(number) for number in range(_IMAGENET_CLASSES))
    if isinstance(subject.weights, Published) and images.class_names != numbers:
        raise ConfigError(
            f"{source} must have ImageNet's classes: synsets such as n01440764, or 0 to 999. Received "
            f"{', '.join(images.class_names[:3])}, ..."
        )
    return images


def build(subject: Subject, image_size: int, channels: int, policy: str) -> tuple[Any, Path]:
    """The model, with its weights, and their file.

    Args:
        image_size: height and width of the images, in pixels.
        channels: of the images.
        policy: Keras' name of a dtype policy.

    Returns:
        A `keras.Model` from normalized images, float32 (batch, image_size, image_size, channels), to
        logits, float32 (batch, classes); and the path of the weights.

    Raises:
        ConfigError: if the model is not for such images, or the weights can't be had or do not fit.
    """
    import keras_cvt
    from keras_cvt import architecture
    from keras_cvt import weights as weights_lib

    shape = (image_size, image_size, channels)
    with _as_config_error():
        architecture.check_input_size(subject.stages, shape)  # before a download
        weights = weights_lib.open_weights(subject.weights, channels)
        cvt = keras_cvt.CvT(
            subject.stages,
            weights=weights,
            input_shape=shape,
            classes=subject.classes,
            classifier_activation=None,
            activation=subject.activation,
            dtype=policy,
        )
    return cvt, weights.path


@contextlib.contextmanager
def _as_config_error() -> Iterator[None]:
    """What keras_cvt says of arguments and files, in one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ConfigError(" ".join(str(error).split())) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def summary(report: dict[str, Any]) -> str:
    """A report in a few lines."""
    paper = "" if report["paper_top1"] is None else f" (the paper: {report['paper_top1']:.1%})"
    crop = "no crop" if report["crop"] is None else f"crop {report['crop']}"
    loss = "no number" if report["loss"] is None else f"{report['loss']:.4f}"
    lines = [
        f"{report['model']}, {report['weights']}, {report['image_size']} pixels, {crop}, "
        f"{report['precision']}, {report['strategy']}",
        f"{report['data']}, {report['split']}: {report['images']:,} images count, "
        f"{report['images_without_labels']:,} have no label, "
        f"{len(report['damaged_images']):,} can't be read",
        f"top-1 {report['top1']:.2%}{paper}, top-5 {report['top5']:.2%}, loss {loss}",
        f"{report['seconds']:.0f} s",
    ]
    if report["images_per_second"] is not None:
        lines[-1] += f", {report['images_per_second']:.0f} images/s"
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
