"""Everything private that the training programs use of Keras and TensorFlow, and nothing else.

Each is a small function or class, so that a new version is adapted to here alone.
tests/training/test_internal.py fails when Keras or TensorFlow moves something, and says what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.distribute import input_lib
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver
from tensorflow.python.framework import config as switches

# ---- layers and graphs of Keras


def flatten_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model, and those in layers, always in the same order.

    The seeds in the checkpoints of runs are numbered in this order.
    """
    return model._flatten_layers()


def producer(tensor: keras.KerasTensor) -> Any:
    """The layer or operation whose result a symbolic tensor is."""
    return tensor._keras_history.operation


def calls_of(operation: Any) -> int:
    """How often a layer or operation was called in graphs."""
    return len(operation._inbound_nodes)


# ---- optimizers of Keras


class ReducedBefore:
    """Mixin for an optimizer whose gradients all replicas share already.

    Keras' own adds them up inside the optimizer, after clipping, and looks for numbers that are not
    finite on the first replica only. `training.engine.step` adds them up before both. If Keras
    renamed this method, gradients would be added up twice, silently.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


def adam_moments(
    optimizer: keras.optimizers.Adam, variable: Any
) -> tuple[keras.Variable, keras.Variable]:
    """The moving averages of a variable's gradient and of its square."""
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def sgd_momentum(optimizer: keras.optimizers.SGD, variable: Any) -> keras.Variable:
    """The momentum of a variable."""
    return optimizer.momentums[optimizer._get_variable_index(variable)]


def decays(optimizer: keras.Optimizer, variable: Any) -> bool:
    """Whether a variable is not excluded from weight decay."""
    return optimizer._use_weight_decay(variable)


# ---- the training loop of Keras


class StepsOfItsOwn:
    """Mixin for a `keras.Model` that has its own way to run its steps in `fit` and `evaluate`.

    The model has `run_on_replicas(step)`, which gives a function that takes a batch from an iterator
    and does a step with it.
    """

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            self.train_function = self.run_on_replicas(self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            self.test_function = self.run_on_replicas(self.test_step)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # All is built already. Keras' own takes a batch for it, which fails with several machines.
        pass


# ---- TensorFlow


def op_determinism() -> bool:
    """Whether operations are deterministic: `tf.config.experimental.enable_op_determinism`."""
    return switches.is_op_determinism_enabled()


@contextlib.contextmanager
def without_op_determinism() -> Iterator[None]:
    """Inside, TensorFlow's switch for deterministic operations is off."""
    before = op_determinism()
    switches.disable_op_determinism()
    try:
        yield
    finally:
        if before:
            switches.enable_op_determinism()


class PlainIteration(input_lib.DistributedDatasetsFromFunction):
    """Batches of a strategy whose pipelines are made where operations are not deterministic.

    With that switch, tf.data runs a pipeline on one thread, and nothing in advance, if a function in
    it has what TensorFlow calls a state. The switch counts only when the iterator is made.
    """

    def __iter__(self) -> Any:
        with without_op_determinism():
            return super().__iter__()

    @classmethod
    def of(cls, batches: tf.distribute.DistributedDataset) -> PlainIteration:
        """Turns what `distribute_datasets_from_function` gave into one of these, in place."""
        if not isinstance(batches, input_lib.DistributedDatasetsFromFunction):
            raise TypeError(
                f"{type(batches).__name__} is not what this TensorFlow was known to give"
            )
        batches.__class__ = cls
        return batches


def slurm_hosts(nodelist: str) -> list[str]:
    """The hosts of SLURM_STEP_NODELIST, such as "n[1-2],m3"."""
    return slurm_cluster_resolver.expand_hostlist(nodelist)


def slurm_tasks(tasks_per_node: str) -> list[int]:
    """The numbers of tasks of SLURM_STEP_TASKS_PER_NODE, such as "2(x3),1"."""
    return slurm_cluster_resolver.expand_tasks_per_node(tasks_per_node)
