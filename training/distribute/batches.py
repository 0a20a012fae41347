"""Batches of which each worker and replica gets its part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorflow.python.distribute import input_lib
from tensorflow.python.framework import config as switches


class ParallelBatches(input_lib.DistributedDatasetsFromFunction):
    """Batches that are prepared in parallel and in advance, also where operations are deterministic.

    With that switch, tf.data runs a pipeline on one thread, and nothing in advance, if a function in
    it has what TensorFlow calls a state: Python, or a data set inside, as `training.data` has. Its rows
    follow from keys, and their order is kept, so the switch has nothing to add. It counts only when the
    iterator is made.
    """

    def __iter__(self) -> Any:
        if not switches.is_op_determinism_enabled():
            return super().__iter__()
        switches.disable_op_determinism()
        try:
            return super().__iter__()
        finally:
            switches.enable_op_determinism()


def distributed(strategy: Any, batches: Callable[..., Any]) -> Any:
    """The batches of `training.data`, of which each worker and replica gets its part."""

    def of_worker(context):
        return batches(
            worker=context.input_pipeline_id,
            workers=context.num_input_pipelines,
            replicas=context.num_replicas_in_sync // context.num_input_pipelines,
        )

    shared = strategy.distribute_datasets_from_function(of_worker)
    shared.__class__ = ParallelBatches
    return shared
