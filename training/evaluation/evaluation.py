"""An evaluation, from what is asked to its report."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import sys
import time
from typing import Any

import keras
import tensorflow as tf
from tqdm import tqdm

from keras_cvt.classification import unnormalized
from keras_cvt.weights import Published
from training import data, distribute
from training.config import ConfigError, DataConfig
from training.data import sources
from training.engine.failures import as_disk_error
from training.engine.step import Trainer
from training.evaluation.labels import as_labelled_for
from training.evaluation.paper import paper_figure
from training.evaluation.settings import Settings
from training.evaluation.subjects import Ready, Subject, find_subject
from training.runs.folder import RunFolder
from training.runs.report import versions


def evaluate(settings: Settings) -> dict[str, Any]:
    """Evaluates a model on labeled images.

    Returns:
        The report. `top1`, `top5` and `paper_top1` are fractions; `paper_top1` is the paper's, where it
        has these weights, images, size and crop.

    Raises:
        ConfigError: If it cannot be done as asked, or no image counts.
    """
    # What is asked, checked before anything that takes long.
    folder = settings.run_folder
    run = None if folder is None else RunFolder(folder).read_finished()[0].data
    strategy = distribute.choose(_devices(settings.strategy))
    distribute.check_batch(strategy, settings.batch_size)
    subject = find_subject(settings.model, settings.weights, strategy, settings.labels)
    asked = settings.images(subject.image_size, run)
    images = sources.load(asked.source, "evaluation", asked.validation_split, asked.data_dir)
    if images.left_out:
        print(images.left_out, file=sys.stderr)
    paper = paper_figure(subject, asked, images)
    images = as_labelled_for(subject, asked.source, images)

    with strategy.scope():
        ready = subject.build(asked.image_size, images.channels, settings.precision)
        trainer = Trainer(ready.model)
        trainer.compile(jit_compile=False)
    if ready.takes_pixels:  # then normalization is to change nothing
        images = dataclasses.replace(images, **unnormalized(images.channels))
    figures = _measured(trainer, images, asked, settings.batch_size, strategy)
    return {
        **_of_model(subject, ready),
        "data": asked.source,
        "split": images.split,
        "classes_matched_by": "position" if subject.class_names is None else "name",
        **figures,
        "paper_top1": paper,
        "image_size": asked.image_size,
        "crop": asked.evaluation_crop,
        "orientation": asked.orientation,
        "batch_size": settings.batch_size,
        "precision": ready.policy,
        "strategy": distribute.describe(strategy),
        **versions(),
    }


def _devices(strategy: str) -> str:
    """The strategy for "auto", which leaves out a cluster: each machine would report what it has."""
    if strategy != "auto":
        return strategy
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one_device"


def _measured(
    trainer: Trainer,
    images: sources.Source,
    asked: DataConfig,
    batch_size: int,
    strategy: tf.distribute.Strategy,
) -> dict[str, Any]:
    """The figures of a report that are measured.

    Raises:
        ConfigError: If too many images are damaged, none has a label, or memory is too small.
    """
    damaged = data.Damaged(asked.max_damaged)
    batches = functools.partial(data.evaluation_batches, asked, images, damaged, batch_size)
    steps = math.ceil(images.count / batch_size)
    ends = []  # of the batches, in seconds

    def after_batch(batch: int, logs: dict[str, float]) -> None:
        ends.append(time.perf_counter())
        bar.update(min(batch_size, images.count - batch * batch_size))

    begin = time.perf_counter()
    # The bar goes to standard error, and only where somebody is looking.
    with tqdm(total=images.count, unit=" images", disable=None) as bar:
        try:
            result = trainer.evaluate(
                distribute.distributed(strategy, batches),
                steps=steps,
                return_dict=True,
                verbose=0,
                callbacks=[keras.callbacks.LambdaCallback(on_test_batch_end=after_batch)],
            )
        except tf.errors.OpError as error:
            if (known := damaged.error or as_disk_error(error)) is not None:
                raise known from None
            if isinstance(error, tf.errors.ResourceExhaustedError):
                raise ConfigError(
                    f"The memory of the device is too small for --batch-size {batch_size}."
                ) from None
            raise
    seconds = time.perf_counter() - begin

    counted = trainer.counted("top1")
    if not counted.images:
        unread = len(damaged.names)
        read = f"; {unread} of them can't be read" if unread else ""
        raise ConfigError(
            f"None of the {images.count} images of {asked.source} has a label that is known{read}."
        )
    return {
        "images": counted.images,
        "images_without_labels": images.count - counted.images - len(damaged.names),
        "damaged_images": sorted(damaged.names),
        "top1": counted.hits / counted.images,
        "top5": trainer.counted("top5").hits / counted.images,
        # JSON has no word for what overflowed.
        "loss": result["loss"] if math.isfinite(result["loss"]) else None,
        "seconds": seconds,
        # Without the first batch, which includes TensorFlow's preparations.
        "images_per_second": (images.count - batch_size) / (ends[-1] - ends[0])
        if steps > 1
        else None,
    }


def _of_model(subject: Subject, ready: Ready) -> dict[str, Any]:
    """What a report says about the model."""
    row = subject.weights
    published = isinstance(row, Published)
    with ready.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "model": subject.name,
        "weights": row.names[0] if published else str(row),
        "weights_revision": f"{row.repo}@{row.revision}" if published else None,
        "weights_sha256": digest,
    }
