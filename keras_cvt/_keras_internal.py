"""Everything private that this library uses of Keras, and nothing else.

The functions are small, so that a new version of Keras is adapted to here alone.
tests/keras_cvt/test_keras_internal.py fails when Keras moves something, and says what to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras.src.models.functional import Functional


def flatten_layers(layer: keras.Layer) -> list[keras.Layer]:
    """The layer, and all layers in it at any depth.

    The order never changes for a given architecture. A training run relies on it: the seeds of
    dropout are numbered in this order, in its checkpoints too.
    """
    return layer._flatten_layers()


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers directly in a layer, in the order in which they were made."""
    return layer._flatten_layers(include_self=False, recursive=False)


def own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """A layer's weights without those of its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def graph_of(layer: Any) -> keras.Function | None:
    """The functional graph that a model runs; None for a layer, or a subclassed model."""
    if isinstance(layer, keras.Sequential):
        return layer._functional
    return layer if isinstance(layer, keras.Function) else None


def is_functional(model: Any) -> bool:
    """Whether a model is one of Keras' own classes, and no more than the graph that it runs."""
    return type(model) in (keras.Sequential, Functional) and graph_of(model) is not None


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or operation in a functional graph.

    Attributes:
        operation: What is called: a `keras.Layer`, or an operation of `keras.ops`.
        inputs: The symbolic tensors among its arguments.
        outputs: The symbolic tensors that it returns.
    """

    operation: Any
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]


def calls(graph: keras.Function) -> list[Call]:
    """The calls of a functional graph, each after those whose results it takes.

    Only those of this graph: its layers may also be called in other graphs. Inputs are left out.
    """
    by_depth = graph._nodes_by_depth
    return [
        Call(node.operation, tuple(node.input_tensors), tuple(node.outputs))
        for depth in sorted(by_depth, reverse=True)
        for node in by_depth[depth]
        if not node.is_input
    ]


def takes_training(operation: Any) -> bool:
    """Whether an operation is a layer whose call has the argument `training`."""
    return isinstance(operation, keras.Layer) and operation._call_has_training_arg


def run_graph(
    graph: keras.Function, inputs: Any, call: Callable[..., Any] = lambda op, *a, **k: op(*a, **k)
) -> Any:
    """A functional graph's outputs for other inputs, symbolic ones too.

    Args:
        graph: Shares its layers with the result.
        inputs: Tensors, structured as the graph's inputs.
        call: `call(operation, *args, **kwargs)` stands for each call of the graph.
    """
    # Keras 3.10 has no default for `operation_fn`.
    return graph._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=call)
