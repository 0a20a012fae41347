"""The report of a finished run."""

from __future__ import annotations

import statistics
from typing import Any

import keras_cvt
from keras_cvt.architecture import stages_to_json
from training.config import Config
from training.engine.state import Progress
from training.engine.step import Trainer
from training.runs.report import versions


def make_report(
    config: Config,
    trainer: Trainer,
    result: dict[str, float],
    progress: Progress,
    steps_per_epoch: int,
    precision: str,
    strategy: str,
) -> dict[str, Any]:
    """The report of a finished run, right after its last evaluation.

    Args:
        config: The run's settings.
        trainer: The model that is saved, which has just been evaluated.
        result: What `trainer.evaluate` returned.
        progress: The run's epochs.
        steps_per_epoch: Steps of an epoch that is finished.
        precision: Name of the dtype policy of the training.
        strategy: The devices in words.
    """
    counted = trainer.counted("top1")
    cost = keras_cvt.complexity(trainer.cvt)
    seconds = statistics.median(epoch["training_seconds"] for epoch in progress.epochs)
    return {
        "top1": result["top1"],
        "top5": result["top5"],
        "loss": result["loss"],
        "correct": counted.hits,
        "images": counted.images,
        # In a typical epoch: the first includes TensorFlow's preparations.
        "images_per_second": steps_per_epoch * config.optimization.batch_size / seconds,
        "seconds": sum(epoch["seconds"] for epoch in progress.epochs),
        "epochs": len(progress.epochs),
        "steps": progress.step,
        "attempts": progress.attempt + 1,
        "damaged_images": sorted(progress.damaged),
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "stages": stages_to_json(config.model.architecture()),
        "seed": config.run.seed,
        "precision": precision,
        "evaluation_precision": trainer.cvt.dtype_policy.name,
        "strategy": strategy,
        **versions(),
    }
