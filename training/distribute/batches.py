"""Batches of which each worker and replica gets its part."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from training._internal import PlainIteration


def distributed(
    strategy: tf.distribute.Strategy, batches: Callable[..., tf.data.Dataset]
) -> tf.distribute.DistributedDataset:
    """The batches of `training.data`, of which each worker and replica gets its part.

    They are prepared in parallel and in advance, also where operations are deterministic: that switch
    has nothing to add, since rows follow from keys, and their order is kept.

    Args:
        strategy: Who shares the batches.
        batches: Called with `worker`, `workers` and `replicas` (of the worker); gives the worker's
            batches, one for each of its replicas in turn.
    """

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return batches(
            worker=context.input_pipeline_id,
            workers=context.num_input_pipelines,
            replicas=context.num_replicas_in_sync // context.num_input_pipelines,
        )

    return PlainIteration.of(strategy.distribute_datasets_from_function(of_worker))
