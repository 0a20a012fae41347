"""The operations that a backend or device computes in its own way are the plain ones.

On a GPU these run as they do on a processor, and check what is chosen there:
`JAX_DEFAULT_MATMUL_PRECISION=highest NVIDIA_TF32_OVERRIDE=0` leaves float32 its digits.
"""

import types

import keras
import numpy as np
import pytest
from backend import BACKEND, floats, gradients

from keras_cvt import layers
from keras_cvt.layers import operations

jax_only = pytest.mark.skipif(BACKEND != "jax", reason="of JAX")
if BACKEND == "jax":
    from keras_cvt.layers.operations import _sum_with_gradient


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def choose(monkeypatch, attention="", convolution=""):
    """Lets the layers compute with these operations; without arguments, with the plain ones."""
    monkeypatch.setattr(operations, "attention_kernel", lambda *_: attention)
    monkeypatch.setattr(operations, "convolution_kernel", lambda: convolution)


def call(layer, inputs, training):
    if BACKEND != "jax":
        return layer(*inputs, training=training)
    import jax  # which compiles one function sooner than many operations

    variables = layer.trainable_variables, layer.non_trainable_variables
    values = [[variable.value for variable in some] for some in variables]

    def function(trainable, others, inputs):
        return layer.stateless_call(trainable, others, *inputs, training=training)[0]

    return jax.jit(function)(*values, inputs)


def answers(layer, inputs, training):
    """What a layer returns, and the gradient of each weight, by name, in float32."""
    outputs = keras.tree.flatten(call(layer, inputs, training))
    targets = [normal(*x.shape) for x in outputs]

    def loss(layer, *inputs):
        found = keras.tree.flatten(layer(*inputs, training=training))
        return sum(
            keras.ops.sum(keras.ops.multiply(keras.ops.cast(x, "float32"), t))
            for x, t in zip(found, targets, strict=True)
        )

    _, grads = gradients(loss, layer, *inputs)
    return {str(i): floats(x) for i, x in enumerate(outputs)} | grads


def check(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Gradients are sums of many: rounding is relative to the largest of them.
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(
            found[name] / scale, value / scale, rtol=0, atol=tolerance, err_msg=name
        )


ATTENTIONS = {"jax": ["xla"], "torch": ["torch"]}.get(BACKEND, [])
BLOCKS = {
    # height, width, with a class token, arguments
    "even": (6, 4, False, {}),
    "odd": (5, 7, False, {"strides_kv": 1}),
    "odd queries": (6, 6, True, {}),
    "odd keys": (7, 8, True, {}),
    "even queries, odd keys": (5, 7, True, {"strides_kv": 3}),
    "wide kernel": (6, 7, True, {"kernel_size": 5, "padding_q": 2, "padding_kv": 0}),
    "linear": (5, 6, True, {"projection": "linear"}),
    "recompute": (6, 6, True, {"recompute": True}),
    "deployed": (6, 6, True, {"deployed": True}),
}


def make_block(case, **options):
    height, width, token, arguments = BLOCKS[case]
    block = layers.CvTBlock(32, 4, **arguments, **options)
    inputs = [normal(2, height, width, 32), *([normal(2, 1, 32)] if token else [])]
    block.build(*[x.shape for x in inputs])
    for weight in block.weights:  # biases, too, and scores that differ
        weight.assign(normal(*weight.shape) * 0.15 + (weight.name == "moving_variance"))
    return block, inputs


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("case", BLOCKS)
def test_attention_at_once_is_attention(case, attention, training, monkeypatch):
    block, inputs = make_block(case)
    training = training and case != "deployed"
    choose(monkeypatch)
    expected = answers(block, inputs, training)
    choose(monkeypatch, attention=attention)
    check(answers(block, inputs, training), expected)


@jax_only
@pytest.mark.parametrize("convolution", ["sum", "sum, own gradient"])
@pytest.mark.parametrize("case", ["odd", "odd keys", "wide kernel", "deployed"])
def test_sums_are_convolutions(case, convolution, monkeypatch):
    block, inputs = make_block(case)
    training = case != "deployed"
    choose(monkeypatch)
    expected = answers(block, inputs, training)
    choose(monkeypatch, convolution=convolution)
    check(answers(block, inputs, training), expected)


@jax_only
@pytest.mark.parametrize(("kernel_size", "strides", "zeros"), [(3, 1, 1), (3, 2, 1), (2, 3, 0)])
def test_gradients_of_sums(kernel_size, strides, zeros):
    import jax

    x, kernel = normal(2, 9, 8, 4), normal(kernel_size, kernel_size, 4, 1)
    target = normal(*operations.sum_of_products(x, kernel, strides, zeros).shape)

    def plain(x, kernel):
        padded = keras.ops.pad(x, [[0, 0], [zeros, zeros], [zeros, zeros], [0, 0]])
        return keras.ops.depthwise_conv(padded, kernel, strides)

    def gradient(function):
        def loss(x, kernel):
            return (function(x, kernel) * target).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, kernel)

    expected = jax.tree.leaves(gradient(plain))
    for function in (operations.sum_of_products, _sum_with_gradient()):
        found = gradient(lambda x, kernel, f=function: f(x, kernel, strides, zeros))
        for ours, theirs in zip(jax.tree.leaves(found), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("case", ["odd keys", "deployed"])
def test_mixed_precision_is_as_close_to_float32(case, monkeypatch):
    """What this device chooses rounds no more than the plain operations do."""
    training = case != "deployed"
    chosen, inputs = make_block(case, dtype="mixed_bfloat16")
    found = answers(chosen, inputs, training)
    choose(monkeypatch)
    monkeypatch.setattr(operations, "half_convolutions", lambda: False)
    reference, plain = make_block(case)[0], make_block(case, dtype="mixed_bfloat16")[0]
    expected = answers(reference, inputs, training)
    rounded = answers(plain, inputs, training)

    def error(values):
        names = [path.partition("/")[2] for path in expected]
        values = dict(zip(names, values.values(), strict=True))
        wanted = dict(zip(names, expected.values(), strict=True))
        difference = sum(np.square(values[name] - wanted[name]).sum() for name in names)
        return np.sqrt(difference / sum(np.square(value).sum() for value in wanted.values()))

    assert error(rounded) < 0.05
    assert error(found) < 1.3 * error(rounded) + 1e-3


def test_attention_weights_are_computed_where_they_are_needed(monkeypatch):
    monkeypatch.setattr(operations, "attention_kernel", lambda *_: pytest.fail("not asked for"))
    layer = layers.ConvProjectionAttention(8, 2, attention_dropout=0.5)
    x, token = normal(2, 6, 6, 8), normal(2, 1, 8)
    layer(x, token, training=True)
    layer.attention_weights(x, token)
    plain = layers.ConvProjectionAttention(8, 2)
    plain(x, token, class_token_only=True)
    plain(x, token, key_mask=np.ones((3, 3), "bool"))


def gpu(version="cuda 13000", capability="9.0", platform="gpu"):
    client = types.SimpleNamespace(platform_version=version)
    return types.SimpleNamespace(platform=platform, client=client, compute_capability=capability)


@jax_only
@pytest.mark.parametrize(
    ("device", "dtype", "width", "expected"),
    [
        (gpu(), "bfloat16", 64, "cudnn"),
        (gpu(), "float16", 64, "cudnn"),
        (gpu(capability="12.0"), "bfloat16", 64, "cudnn"),
        (gpu(), "float32", 64, ""),
        (gpu(), "bfloat16", 60, ""),
        (gpu(), "bfloat16", 256, ""),
        (gpu(capability="7.5"), "bfloat16", 64, ""),
        (gpu(version="rocm 7"), "bfloat16", 64, ""),
        (gpu(platform="tpu"), "bfloat16", 64, ""),
    ],
)
def test_where_cudnn_computes_attention(device, dtype, width, expected, monkeypatch):
    monkeypatch.setattr(operations, "jax_device", lambda: device)
    assert operations.attention_kernel(None, dtype, width) == expected


@jax_only
def test_convolutions_of_a_gpu(monkeypatch):
    monkeypatch.setattr(operations, "jax_device", gpu)
    assert operations.convolution_kernel() == "sum, own gradient"
    assert layers.ConvProjection(dtype="mixed_bfloat16").conv.compute_dtype == "bfloat16"
    monkeypatch.setattr(operations, "jax_device", lambda: gpu(platform="tpu"))
    assert operations.convolution_kernel() == ""
    assert layers.ConvProjection(dtype="mixed_bfloat16").conv.compute_dtype == "float32"


@jax_only
def test_the_device_that_was_asked_for_counts():
    import jax

    assert operations.jax_device() == jax.devices()[0]
    with keras.device("cpu"):
        assert operations.jax_device().platform == "cpu"
    with jax.default_device("cpu"):
        assert operations.jax_device().platform == "cpu"


@pytest.mark.skipif(BACKEND == "jax", reason="of other backends")
def test_other_backends_convolve_themselves():
    assert operations.convolution_kernel() == ""
