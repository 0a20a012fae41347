"""Images for evaluation, all in memory."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from training.config import Config
from training.data.damaged import Damaged
from training.data.dataset import RunData
from training.data.evaluation import evaluation_batches


def evaluation_arrays(config: Config, data: RunData) -> tuple[np.ndarray, np.ndarray]:
    """The validation images of a run, of which each has one right class; for small data sets.

    Returns:
        The images, normalized, float32 (images, height, width, channels), and their labels, int64
        (images,); without the images that are damaged.

    Raises:
        DamagedError: If more images are damaged than `max_damaged`.
        StorageError: If a file can't be read.
    """
    damaged, batch_size = Damaged(config.data.max_damaged), config.optimization.batch_size
    batches = evaluation_batches(config.data, data.validation, damaged, batch_size)
    try:
        parts = list(zip(*batches.as_numpy_iterator(), strict=True))
    except tf.errors.OpError as error:
        raise damaged.error or error from None
    pixels, targets, weights = (np.concatenate(part) for part in parts)
    return pixels[weights > 0], targets[weights > 0].argmax(axis=-1)
