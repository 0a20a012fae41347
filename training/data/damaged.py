"""Images that can't be read."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import tensorflow as tf

from training.config import ConfigError
from training.data.dataset import Dataset
from training.data.storage import StorageError, why_unread

# What batches have for each row: the name of an image that can't be decoded, or of a file that can't be
# read now, or "".
PROBLEMS = ("damaged", "unread")


class DamagedError(ConfigError):
    """More images can't be read than the run may skip. The message is one line."""


class Damaged:
    """Counts the images that can't be read, and logs the name of each once.

    Attributes:
        limit: How many are skipped; one more is an error.
        names: Names of the images that can't be read, in the order in which they were found; the
            values mean nothing. Those with which it is made are known already.
        error: The error that stops the run, or None. TensorFlow hides it behind one of its own.
    """

    error: DamagedError | StorageError | None

    def __init__(self, limit: int, names: dict[str, None] | None = None):
        self.limit = limit
        self.names = {} if names is None else names
        self.error = None

    def stop(self, unread: Iterable[bytes]) -> None:
        """Ends the run for files that can't be read, and have been waited for.

        Raises:
            StorageError: It does.
        """
        name, *others = dict.fromkeys(unread)
        said = f" and {len(others):,} others" if others else ""
        shown = name.decode(errors="backslashreplace")
        self.error = StorageError(f"{shown}{said} can't be read{why_unread(name)}")
        raise self.error

    def report(self, names: Iterable[bytes], in_place_of: int | None = None) -> None:
        """Notes images of a batch that can't be read.

        Args:
            names: Names of the unreadable images.
            in_place_of: How many successive images the batch has. They can't all be damaged: none
                would be left to stand in.

        Raises:
            DamagedError: If the run may not go on.
        """
        names = [name.decode(errors="backslashreplace") for name in names]
        for name in dict.fromkeys(names):
            if name not in self.names:
                self.names[name] = None
                logging.getLogger(__name__).warning("%s can't be read, and is skipped.", name)
        first = ", ".join(list(self.names)[:3]) + (", ..." if len(self.names) > 3 else "")
        if len(self.names) > self.limit:
            self.error = DamagedError(
                f"{len(self.names)} images can't be read; `max_damaged` is {self.limit}: {first}"
            )
        elif in_place_of is not None and len(names) == in_place_of:
            self.error = DamagedError(
                f"All of {in_place_of} successive images can't be read: {first}"
            )
        if self.error is not None:
            raise self.error


def reported(batches: Dataset, damaged: Damaged, in_place_of: int | None = None) -> Dataset:
    """Tells `damaged` of the names that batches have as `PROBLEMS`, and leaves those parts out."""

    def report(names: tf.Tensor, unread: tf.Tensor) -> tf.Tensor:
        if len(unread):
            damaged.stop(unread)
        damaged.report(names, in_place_of)
        return True

    def check(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        names = [tf.boolean_mask(batch[name], batch[name] != "") for name in PROBLEMS]
        reported = tf.cond(
            tf.size(names[0]) + tf.size(names[1]) > 0,
            lambda: tf.numpy_function(report, names, tf.bool),
            lambda: tf.constant(True),
        )
        with tf.control_dependencies([reported]):
            return {key: tf.identity(part) for key, part in batch.items() if key not in PROBLEMS}

    return batches.map(check)
