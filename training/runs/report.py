"""A run's result."""

from __future__ import annotations

import platform
import statistics
from pathlib import Path
from typing import Any

from training.config import Config


def make_report(
    config: Config,
    images: Any,
    trainer: Any,
    result: dict[str, float],
    progress: Any,
    strategy: Any,
    policy: str,
) -> dict[str, Any]:
    """A finished run's result, `result` being that of the evaluation that has just been made."""
    import keras

    import keras_cvt
    from training import data, distribute

    seen = trainer.means["top1"]
    seconds = statistics.median(epoch["training_seconds"] for epoch in progress.epochs)
    steps = min(data.steps_per_epoch(config, images), progress.step)
    return {
        "top1": result["top1"],
        "top5": result["top5"],
        "loss": result["loss"],
        "correct": round(float(keras.ops.convert_to_numpy(seen.total))),
        "images": round(float(keras.ops.convert_to_numpy(seen.count))),
        # In a typical epoch: the first includes TensorFlow's preparations.
        "images_per_second": steps * config.optimization.batch_size / seconds,
        "seconds": sum(epoch["seconds"] for epoch in progress.epochs),
        "epochs": len(progress.epochs),
        "steps": progress.step,
        "attempts": progress.attempt + 1,
        "damaged_images": sorted(progress.damaged),
        "parameters": keras_cvt.complexity(trainer.cvt).parameters,
        "seed": config.run.seed,
        "precision": policy,
        "strategy": distribute.describe(strategy),
        **versions(),
    }


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    import keras
    import tensorflow as tf

    import keras_cvt

    return {
        "keras_cvt": keras_cvt.__version__,
        "keras": keras.version(),
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
    }


def summary(report: dict[str, Any], run_dir: Path) -> str:
    """A finished run in a few lines."""
    return f"""
Held-out accuracy {report["top1"]:.2%} ({report["correct"]} of {report["images"]} images), \
top-5 {report["top5"]:.2%}, loss {report["loss"]:.4f}
{report["epochs"]} epochs in {report["seconds"]:.0f} s, {report["images_per_second"]:.0f} images/s

{run_dir / "model.keras"}  the trained model
{run_dir / "curves.png"}   how it went
{run_dir / "report.json"}  these numbers, and more"""
