"""Verifies that an exported file answers as Keras does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from keras_cvt.export.classifier import Classifier
from keras_cvt.export.formats import ExportError

# A NASA photograph (public domain) of Eileen Collins. It verifies exports, and warms up a server.
PICTURE = Path(__file__).with_name("astronaut.jpg")

# Images, float32 (batch, height, width, channels), preprocessed -> probabilities (batch, classes).
Run = Callable[[np.ndarray], np.ndarray]


def difference(answers: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of two arrays, as a share of the largest expected value.

    So a wrong answer is seen whether many classes share the probability or one has it all.

    Returns:
        The share; infinite where the shapes differ or an answer is not finite.
    """
    if answers.shape != expected.shape or not np.isfinite(answers).all():
        return float("inf")
    return float(np.abs(answers - expected).max() / np.abs(expected).max())


def verify_probabilities(model: Classifier, run: Run, tolerance: float) -> float:
    """Asks a written file and the given model about a real picture, in all the shapes that were
    promised.

    Args:
        model: What was written.
        run: Answers in the file's own runtime.
        tolerance: The largest accepted `difference`; for a model in half precision at least that of
            its rounding.

    Returns:
        The largest difference found.

    Raises:
        ExportError: If it is more than `tolerance`.
    """
    tolerance = max(tolerance, model.rounding)
    height, width = model.image_size
    sizes = [(height, width)]
    if model.any_size:
        sizes.append((height + 16, width + 32))
    found = 0.0
    for size in sizes:
        picture = model.load(PICTURE, size)
        for count in [1, 2] if model.batch_size is None else [model.batch_size]:
            # Every other image is flipped, so that rows that are mixed up are found out, too.
            flips = [picture, picture[:, :, ::-1]]
            images = np.concatenate([flips[i % 2] for i in range(count)])
            found = max(found, difference(run(images), model.probabilities(images)))
    if not found <= tolerance:
        raise ExportError(
            f"The exported file differs from Keras' probabilities by {found:.1e} of the largest, more "
            f"than the tolerance {tolerance:.1e}. It was removed."
        )
    return found
