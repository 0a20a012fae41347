"""What computes batches of images: a Keras model here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Runtime:
    """From preprocessed images to what a model says of them.

    Attributes:
        run: From float32 (batch, height, width, channels) to (batch, outputs).
        batch_size: The only number of images that it takes at a time. None for any.
    """

    run: Callable[[np.ndarray], np.ndarray]
    batch_size: int | None = None

    def __call__(self, images: np.ndarray, batch_size: int) -> np.ndarray:
        """Computes up to `batch_size` images.

        Always as many are computed, so that a last batch of its own size is not compiled anew.

        Returns:
            float64 (images, outputs).
        """
        step = self.batch_size or batch_size
        found = []
        for start in range(0, len(images), step):
            part = images[start : start + step]
            missing = np.zeros((step - len(part), *part.shape[1:]), part.dtype)
            answers = self.run(np.concatenate([part, missing]) if len(missing) else part)
            found.append(np.asarray(answers, "float64")[: len(part)])
        return np.concatenate(found)


def keras_runtime(model: keras.Model) -> Runtime:
    """The runtime of a Keras model with one input and one output."""
    return Runtime(model.predict_on_batch)
