"""A run's result, for people, and what it depends on."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from keras_cvt._messages import some
from training.runs.folder import RunFolder


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
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
    folder = RunFolder(run_dir)
    # Named once more where nothing follows: decoders write lines of their own between the others.
    damaged = report.get("damaged_images")
    skipped = f"\nCan't be read, and skipped: {some(damaged)}" if damaged else ""
    model = "the trained model"
    if not folder.model.exists():
        model = (
            f"is gone; without {folder.report.name}, the command makes it of the last checkpoint"
        )
    return f"""
Validation accuracy {report["top1"]:.2%} ({report["correct"]} of {report["images"]} images), \
top-5 {report["top5"]:.2%}, loss {report["loss"]:.4f}
{report["epochs"]} epochs in {report["seconds"]:.0f} s, {report["images_per_second"]:.0f} images/s

{folder.model}  {model}
{folder.curves}   how it went
{folder.report}  these numbers, and more{skipped}"""
