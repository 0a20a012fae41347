"""What holds for every layer, whatever it computes. Runs on all backends of Keras."""

import json

import keras
import numpy as np
import pytest
from backend import BACKEND, compiled, gradients, numpy
from layer_cases import CASES, inputs_of, make, normal, shapes

from keras_cvt import layers
from keras_cvt._keras_internal import flatten_layers, sublayers


def test_every_layer_is_here():
    public = {getattr(layers, name) for name in layers.__all__}
    public = {cls for cls in public if isinstance(cls, type) and issubclass(cls, keras.Layer)}
    assert {cls for cls, *_ in CASES.values()} == public


@pytest.mark.parametrize("case", CASES)
def test_shapes_and_weights(case):
    layer, channels, token, weights = make(case)
    inputs = inputs_of(channels, token)
    outputs = layer(*inputs)
    assert len(layer.weights) == weights
    computed = layer.compute_output_shape(*[x.shape for x in inputs])
    computed = computed if isinstance(computed[0], tuple) else (computed,)
    assert shapes(outputs) == list(computed)
    assert all(np.isfinite(numpy(x)).all() for x in keras.tree.flatten(outputs))


@pytest.mark.parametrize("case", CASES)
def test_config_round_trip(case):
    layer, channels, token, _ = make(case, name="mine")
    inputs = inputs_of(channels, token)
    layer(*inputs)
    config = json.loads(json.dumps(layer.get_config()))
    twin = type(layer).from_config(config)
    assert json.loads(json.dumps(twin.get_config())) == config
    twin.build(*[x.shape for x in inputs])
    assert [w.path for w in twin.weights] == [w.path for w in layer.weights]
    twin.set_weights(layer.get_weights())
    for ours, theirs in zip(
        keras.tree.flatten(layer(*inputs)), keras.tree.flatten(twin(*inputs)), strict=True
    ):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


def flags(layer):
    return {"": layer.trainable} | {
        f"{sublayer.name}/{path}": flag
        for sublayer in sublayers(layer)
        for path, flag in flags(sublayer).items()
    }


def freeze_all(layer):
    layer.trainable = False


def freeze_batch_norms(layer):
    for sublayer in flatten_layers(layer):
        if isinstance(sublayer, keras.layers.BatchNormalization):
            sublayer.trainable = False


def freeze_every_other(layer):
    for sublayer in flatten_layers(layer)[1::2]:
        sublayer.trainable = False


def thaw_the_last(layer):
    layer.trainable = False
    flatten_layers(layer)[-1].trainable = True


@pytest.mark.parametrize(
    "freeze", [freeze_all, freeze_batch_norms, freeze_every_other, thaw_the_last]
)
@pytest.mark.parametrize("case", CASES)
def test_a_config_has_every_trainable_flag(case, freeze):
    layer, channels, token, _ = make(case)
    shapes = [x.shape for x in inputs_of(channels, token)]
    layer.build(*shapes)
    assert "sublayers_trainable" not in layer.get_config()  # where there is nothing to say
    freeze(layer)
    config = json.loads(json.dumps(layer.get_config()))
    twin = type(layer).from_config(config)
    assert json.loads(json.dumps(twin.get_config())) == config  # before it is built, too
    twin.build(*shapes)
    assert json.loads(json.dumps(twin.get_config())) == config
    assert flags(twin) == flags(layer)
    assert [w.trainable for w in twin.weights] == [w.trainable for w in layer.weights]
    assert [w.path for w in twin.trainable_weights] == [w.path for w in layer.trainable_weights]
    twin = type(layer).from_config(config)
    twin.trainable = False  # what is set afterwards counts
    twin.trainable = True
    twin.build(*shapes)
    assert set(flags(twin).values()) == {True}


@pytest.mark.parametrize("case", CASES)
def test_every_weight_has_a_gradient(case):
    layer, channels, token, _ = make(case)
    inputs = inputs_of(channels, token)
    layer(*inputs)
    targets = [normal(*x.shape) for x in keras.tree.flatten(layer(*inputs))]

    def loss(layer, *inputs):
        outputs = keras.tree.flatten(layer(*inputs))
        return sum(
            keras.ops.sum(keras.ops.multiply(x, t)) for x, t in zip(outputs, targets, strict=True)
        )

    if not layer.trainable_weights:
        return
    _, grads = gradients(loss, layer, *inputs)
    for path, grad in grads.items():
        assert grad is not None, path
        # The softmax does not see what all keys have in common.
        if not path.endswith(("proj_k/bias", "conv_proj_k/bn/beta")):
            assert np.abs(grad).max() > 1e-8, path


@pytest.mark.parametrize(
    "policy", ["float32", "mixed_float16", "mixed_bfloat16", "float16", "float64"]
)
@pytest.mark.parametrize("case", CASES)
def test_dtype_policies(case, policy):
    layer, channels, token, _ = make(case, dtype=policy)
    inputs = inputs_of(channels, token)
    outputs = keras.tree.flatten(
        layer(*inputs, training=True) if case == "drop_path" else layer(*inputs)
    )
    if BACKEND == "jax" and policy == "float64":
        return  # JAX has no float64 unless it is switched on; that it runs is all there is to see
    compute = keras.dtype_policies.get(policy).compute_dtype
    if case in ("class_names", "image_normalized", "image_resized"):
        compute = (
            "float32"  # what comes in, probabilities, is not rounded; nor is a normalized image
        )
    variable = keras.dtype_policies.get(policy).variable_dtype
    for output in outputs:
        assert keras.backend.standardize_dtype(output.dtype) == compute
        assert np.isfinite(numpy(keras.ops.cast(output, "float32"))).all()
    for sublayer in flatten_layers(layer):
        # In training, BatchNorm computes in float32 what its convolution gives it.
        expected = variable if sublayer.name == "conv" and "deployed" not in case else policy
        assert sublayer.dtype_policy.name == expected, sublayer.name
    for weight in layer.weights:
        assert weight.dtype == variable, weight.path


@pytest.mark.parametrize("case", CASES)
def test_unknown_sizes_in_a_saved_model(case, tmp_path):
    """One functional model of unknown height and width serves rectangles of several sizes, is saved
    and loaded without custom objects, and answers bit for bit alike."""
    layer, channels, token, _ = make(case)
    if token:
        inputs = [keras.Input((None, None, channels)), keras.Input((1, channels))]
        model = keras.Model(inputs, layer(*inputs))
    else:
        inputs = keras.Input((None, None, channels))
        model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for size in ((9, 13), (16, 8), (5, 6)):
        x = inputs_of(channels, token, *size)
        x = x if token else x[0]
        for ours, theirs in zip(
            keras.tree.flatten(model(x)), keras.tree.flatten(loaded(x)), strict=True
        ):
            np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@pytest.mark.parametrize("case", CASES)
def test_compiled(case):
    layer, channels, token, _ = make(case)
    inputs = inputs_of(channels, token)
    eager = keras.tree.flatten(layer(*inputs))
    fast = keras.tree.flatten(compiled(lambda *x: layer(*x))(*inputs))
    for ours, theirs in zip(fast, eager, strict=True):
        np.testing.assert_allclose(numpy(ours), numpy(theirs), atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function is TensorFlow's")
@pytest.mark.parametrize("case", ["embedding", "position", "attention_token", "block_token"])
def test_unknown_sizes_in_tf_function(case):
    import tensorflow as tf

    layer, channels, token, _ = make(case)
    inputs = inputs_of(channels, token)
    layer(*inputs)
    signature = [tf.TensorSpec((None, None, None, channels))]
    signature += [tf.TensorSpec((None, 1, channels))] if token else []
    function = tf.function(lambda *x: layer(*x), input_signature=signature)
    for size in ((9, 13), (16, 8)):
        x = inputs_of(channels, token, *size)
        for ours, theirs in zip(
            keras.tree.flatten(function(*x)), keras.tree.flatten(layer(*x)), strict=True
        ):
            np.testing.assert_allclose(numpy(ours), numpy(theirs), atol=1e-5)
    if token:
        concrete = function.get_concrete_function()
        assert concrete.structured_outputs[1].shape.as_list() == [None, 1, channels]
