"""What TensorFlow's errors mean."""

from __future__ import annotations

import tensorflow as tf

from keras_cvt._files import is_disk_fault
from training.runs.run_checkpoints import DiskError


def as_disk_error(error: Exception) -> DiskError | None:
    """What an error says of a disk, which TensorFlow calls exhausted resources too; None if nothing."""
    if not is_disk_fault(error):
        return None
    lines = [line.strip() for line in str(error).splitlines()]
    return DiskError(None, next((line for line in lines if is_disk_fault(OSError(line))), lines[0]))


def lost_worker(error: tf.errors.OpError) -> str:
    """What an error says of a worker that does not answer; "" if it is another error."""
    lines = [line.strip() for line in str(error).splitlines() if "ollective ops is" in line]
    return lines[0] if lines else type(error).__name__ if is_unanswered(error) else ""


def is_unanswered(error: tf.errors.OpError) -> bool:
    """Whether another process did not answer, or not as it should."""
    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    return isinstance(error, lost)
