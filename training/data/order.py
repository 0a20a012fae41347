"""Which rows of a run a worker has, and in which groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from training import augment

GROUPS = 2  # prepared at a time: each may have hundreds of images


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of a run's rows, as far as one worker needs it.

    The rows of a run are numbered over all steps and workers: in each step the first worker's come
    first. A worker's own rows are numbered from 0 too. A group is successive rows of one worker and
    one step that are prepared and mixed together.

    Attributes:
        seed, attempt: Decide the order of each epoch's images.
        worker, workers: This worker, from 0, and how many there are.
        batch_size: Rows of a step.
        rows: This worker's rows of a step.
        group: Rows of a group.
        rows_per_epoch: Of all workers.
        views: How many successive rows of an epoch show the same image.
        first_step, steps: The first step to be given, and the number of the run's steps.
    """

    seed: int
    attempt: int
    worker: int
    workers: int
    batch_size: int
    rows: int
    group: int
    rows_per_epoch: int
    views: int
    first_step: int
    steps: int

    def placed(self, own: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the epoch and the place in it of this worker's rows with these numbers."""
        number = own // self.rows * self.batch_size + self.worker * self.rows + own % self.rows
        return {"epoch": number // self.rows_per_epoch, "place": number % self.rows_per_epoch}

    def number(self, row: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns the number of a row in the run."""
        return row["epoch"] * self.rows_per_epoch + row["place"]

    def epoch_key(self, epoch: tf.Tensor) -> tf.Tensor:
        """Returns the key of an epoch's order."""
        return augment.key(self.seed, self.attempt, epoch)

    def row_key(self, row: dict[str, tf.Tensor]) -> tuple[int, tf.Tensor, tf.Tensor]:
        """Returns the numbers that tell a row's view of its image from all others of the run."""
        return self.attempt, row["epoch"], row["place"]


def in_turns(groups: tf.data.Dataset, prepare: Callable[..., tf.data.Dataset]) -> tf.data.Dataset:
    """Gives what a data set for each group prepares, in order."""
    return groups.interleave(
        prepare,
        cycle_length=GROUPS,
        block_length=1,
        num_parallel_calls=GROUPS,
        deterministic=True,
    )
