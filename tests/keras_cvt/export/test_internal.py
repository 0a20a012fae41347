"""The private names of TensorFlow and LiteRT that the exports need exist, and mean what they did."""

import inspect

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_cvt.export import _internal

WHAT_TO_DO = (
    "A new version of TensorFlow or LiteRT has moved a private name. Find its new place, mend "
    "keras_cvt/export/_internal.py, and see that `python -m benchmarks.export` gives the accuracies "
    "of docs/export's table; or keep the older version in setup.py. What is missing: "
)


def has(owner, *names):
    missing = [name for name in names if not hasattr(owner, name)]
    assert not missing, f"{WHAT_TO_DO}{', '.join(missing)} of {owner}."


def test_the_switch_for_calibration_only():
    converter = tf.lite.TFLiteConverter.from_concrete_functions([])
    has(converter, "_experimental_calibrate_only")
    assert converter._experimental_calibrate_only is False, f"{WHAT_TO_DO}a switch that is off."
    _internal.calibrate_only(converter)
    assert converter._experimental_calibrate_only is True


def test_the_second_step_of_quantization():
    names = inspect.signature(_internal.convert.mlir_quantize).parameters
    for name in ("denylisted_ops", "disable_per_channel_for_dense_layers"):
        assert name in names, f"{WHAT_TO_DO}the argument {name} of mlir_quantize."


def test_the_schema():
    has(_internal.schema, "BufferT", "MetadataT", "ModelT", "BuiltinOperator")
    operations = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    has(_internal.schema.BuiltinOperator, *operations)


def test_only_what_is_asked_for_is_quantized():
    """Both steps, on a model of a convolution and a square."""
    kernel = tf.Variable(tf.random.stateless_normal((3, 3, 2, 4), (0, 0)))

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 2), tf.float32)])
    def model(images):
        return tf.square(tf.nn.conv2d(images, kernel, 1, "SAME"))

    module = tf.Module()
    module.kernel = kernel
    function = model.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    images = tf.random.stateless_normal((1, 8, 8, 2), (0, 1))
    converter.representative_dataset = lambda: iter([[images]])
    _internal.calibrate_only(converter)
    content = _internal.quantize(converter.convert(), ("CONV_2D",))

    (graph,) = _internal.read_model(content).subgraphs
    types = {
        number: name
        for name, number in vars(_internal.schema.TensorType).items()
        if not name.startswith("_")
    }
    codes = _internal.read_model(content).operatorCodes
    names = {
        number: name
        for name, number in vars(_internal.schema.BuiltinOperator).items()
        if not name.startswith("_")
    }
    kinds = {
        names[codes[operator.opcodeIndex].builtinCode]: types[
            graph.tensors[operator.inputs[0]].type
        ]
        for operator in graph.operators
    }
    assert kinds["CONV_2D"] == "INT8", f"{WHAT_TO_DO}{kinds}."
    assert kinds.get("SQUARE", kinds.get("MUL")) == "FLOAT32", f"{WHAT_TO_DO}{kinds}."
    assert (
        Interpreter(model_content=content).get_input_details()[0]["dtype"] == images.numpy().dtype
    )
