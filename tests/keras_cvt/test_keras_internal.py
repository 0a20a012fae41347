"""Keras still has what keras_cvt/_keras_internal.py uses of its private parts.

A failure here means that a new version of Keras has moved something. Adapt the function that the
message names in keras_cvt/_keras_internal.py, so that it keeps its promise; nothing else uses a private
name of Keras. Or lower the bound on Keras in setup.py until that is done.
"""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_cvt
from keras_cvt import _keras_internal

SOURCES = Path(keras_cvt.__file__).parent


def adapt(function, what):
    return f"Keras {keras.__version__}: {what} Adapt `{function}` in keras_cvt/_keras_internal.py."


class Inner(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dropout(0.5, name="first")
        self.second = keras.layers.Dense(2, name="second")

    def build(self, shape):
        self.offset = self.add_weight(name="offset", shape=(1,))
        self.mean = self.add_weight(name="mean", shape=(1,), trainable=False)
        self.second.build(shape)

    def call(self, x):
        return self.second(self.first(x)) + self.offset


def small():
    inputs = keras.Input((3,), name="in")
    x = keras.layers.Dense(4, name="dense")(inputs)
    x = Inner(name="inner")(x)
    inner = keras.Sequential(
        [keras.Input((2,), name="deep_in"), Inner(name="deep")], name="sequential"
    )
    return keras.Model(inputs, [keras.layers.Add(name="add")([inner(x), x]), x])


def test_keras_own_models():
    class Own(keras.Model):
        pass

    model = small()
    sequential = model.get_layer("sequential")
    for given, expected in ((model, True), (sequential, True), (keras.Sequential(), False)):
        assert _keras_internal.is_functional(given) is expected, adapt("is_functional", "no class.")
    assert not _keras_internal.is_functional(Own(model.inputs, model.outputs))


def test_the_order_of_layers():
    found = [layer.name for layer in _keras_internal.flatten_layers(small())][1:]
    of_inner = ["second", "first"]  # backwards
    expected = [
        "in",
        "dense",
        "inner",
        *of_inner,
        "sequential",
        "deep",
        *of_inner,
        "deep_in",
        "add",
    ]
    assert found == expected, adapt(
        "flatten_layers",
        "the order of `Layer._flatten_layers` has changed, by which the seeds in the checkpoints of "
        f"training runs are numbered: {found}.",
    )


def test_the_order_of_layers_in_a_block():
    """Of the layers that draw random numbers, above all."""
    block = keras_cvt.CvTBlock(8, 2, dropout=0.1, attention_dropout=0.1, drop_path=0.1)
    block.build((None, 4, 4, 8))
    drawing = [
        layer.name
        for layer in _keras_internal.flatten_layers(block)
        if hasattr(layer, "seed_generator")
    ]
    assert drawing == ["proj_drop", "attn_drop", "drop_path", "drop"], adapt(
        "flatten_layers",
        f"the layers of a block come in another order, {drawing}: old runs would resume with the "
        "seeds of other layers.",
    )


def test_sublayers_and_own_weights():
    layer = Inner(name="inner")
    layer.build((None, 3))
    names = [sublayer.name for sublayer in _keras_internal.sublayers(layer)]
    assert names == ["first", "second"], adapt("sublayers", f"found {names}.")
    names = [weight.name for weight in _keras_internal.own_weights(layer)]
    assert names == ["offset", "mean"], adapt("own_weights", f"found {names}.")


def test_graphs():
    model = small()
    assert _keras_internal.graph_of(model) is model, adapt(
        "graph_of", "a functional model is no `keras.Function` any more."
    )
    sequential = model.get_layer("sequential")
    graph = _keras_internal.graph_of(sequential)
    assert [layer.name for layer in graph.operations][1:] == ["deep"], adapt(
        "graph_of", "a Sequential model does not keep its functional graph as before."
    )
    assert _keras_internal.graph_of(model.get_layer("dense")) is None


def test_calls_of_a_graph():
    model = small()
    inner = model.get_layer("inner")
    inner(keras.Input((4,)))  # a call in another graph, which is not meant
    found = _keras_internal.calls(model)
    assert [call.operation.name for call in found] == ["dense", "inner", "sequential", "add"], (
        adapt("calls", "the nodes of a functional graph are kept in another way.")
    )
    dense, inner, _, add = found
    assert dense.inputs == tuple(model.inputs) and inner.inputs == dense.outputs
    assert add.inputs[1] is inner.outputs[0] is model.outputs[1]
    assert add.outputs[0] is model.outputs[0]


def test_running_a_graph():
    model = small()
    x = np.ones((2, 3), "float32")
    expected = [keras.ops.convert_to_numpy(y) for y in model(x)]
    seen = []

    def call(operation, *args, **kwargs):
        seen.append(operation.name)
        return operation(*args, **kwargs)

    inputs = keras.Input((3,))
    other = keras.Model(inputs, _keras_internal.run_graph(model, inputs, call))
    assert seen == ["dense", "inner", "sequential", "add"], adapt(
        "run_graph", f"`Function._run_through_graph` does something else: {seen}."
    )
    for ours, theirs in zip(other(x), expected, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(ours), theirs, atol=1e-6)


@pytest.mark.parametrize("name", ["_flatten_layers", "_inbound_nodes", "_keras_history", "_layers"])
def test_no_other_module_uses_private_names(name):
    users = [
        path.relative_to(SOURCES).as_posix()
        for path in SOURCES.rglob("*.py")
        if f".{name}" in path.read_text(encoding="utf-8")
    ]
    assert set(users) <= {"_keras_internal.py"}
