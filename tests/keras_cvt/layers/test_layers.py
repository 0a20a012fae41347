"""What each layer computes (keras_cvt/layers); test_contract.py has what holds for all of them.

Runs on all backends of Keras.
"""

import keras
import numpy as np
import pytest
from backend import BACKEND, gradients, needs_xla, numpy
from layer_cases import inputs_of, normal

import keras_cvt
from keras_cvt import layers
from keras_cvt._validation import PROJECTIONS
from keras_cvt.layers.common import pad


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_safe(policy):
    """Near float32 in general; and finite where sums of products would leave float16's range."""
    x, token = normal(2, 6, 6, 64) * 30, normal(2, 1, 64) * 30
    full = layers.CvTBlock(64, 1, dtype="float32")
    half = layers.CvTBlock(64, 1, dtype=policy)
    full(x, token), half(x, token)
    half.set_weights(full.get_weights())
    for ours, theirs in zip(half(x, token), full(x, token), strict=True):
        ours, theirs = numpy(keras.ops.cast(ours, "float32")), numpy(theirs)
        assert np.abs(ours - theirs).max() < 0.01 * np.abs(theirs).max()

    for dense in (half.attn.proj_q, half.attn.proj_k):
        dense.kernel.assign(dense.kernel * 900)
    normed = half.norm1(keras.ops.convert_to_tensor(x))
    q, k = (
        numpy(keras.ops.cast(dense(conv(normed)), "float32")).reshape(2, -1, 64)
        for conv, dense in (
            (half.attn.conv_proj_q, half.attn.proj_q),
            (half.attn.conv_proj_k, half.attn.proj_k),
        )
    )
    assert np.abs(q @ k.transpose(0, 2, 1)).max() > np.finfo("float16").max
    for output in half(x, token):
        assert np.isfinite(numpy(keras.ops.cast(output, "float32"))).all()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function is TensorFlow's")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_class_token_only_of_unknown_sizes(jit, training):
    import tensorflow as tf

    if jit:
        needs_xla()
    block = layers.CvTBlock(8, 2)
    inputs = inputs_of(8, True)
    block(*inputs)

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, None, 8)), tf.TensorSpec((None, 1, 8))],
        jit_compile=jit,
    )
    def function(x, token):
        token = block(x, token, class_token_only=True, training=training)
        assert token.shape.as_list()[1:] == [1, 8]
        return token

    expected = block(*inputs, class_token_only=True, training=training)
    np.testing.assert_allclose(numpy(function(*inputs)), numpy(expected), atol=1e-5)


def test_quick_gelu():
    x = np.linspace(-6, 6, 25).astype("float32")
    expected = x / (1 + np.exp(-1.702 * x))
    np.testing.assert_allclose(numpy(layers.quick_gelu(x)), expected, atol=1e-6)
    config = keras.activations.serialize(keras_cvt.quick_gelu)
    assert keras.activations.deserialize(config) is keras_cvt.quick_gelu
    assert layers.MLP(4, activation="quick_gelu").activation is keras_cvt.quick_gelu
    dense = keras.layers.Dense(3, activation=keras_cvt.quick_gelu)
    assert keras.layers.Dense.from_config(dense.get_config()).activation is keras_cvt.quick_gelu


def test_embedding_pads_on_all_sides():
    """At even sizes with strides, Keras' "same" would give the same shape and other values."""
    layer = layers.ConvEmbedding(1, kernel_size=3, strides=2, padding=1)
    x = normal(1, 4, 6, 1)
    layer.build(x.shape)
    kernel = numpy(layer.proj.kernel)[:, :, 0, 0]
    padded = np.pad(x[0, :, :, 0], 1)
    expected = [[(padded[i : i + 3, j : j + 3] * kernel).sum() for j in (0, 2, 4)] for i in (0, 2)]
    convolved = layer.proj(pad(keras.ops.convert_to_tensor(x), 1))
    bias = numpy(layer.proj.bias)[0]
    np.testing.assert_allclose(numpy(convolved)[0, :, :, 0] - bias, expected, atol=1e-5)


def test_attention_against_plain_numpy():
    layer = layers.ConvProjectionAttention(8, 2, projection="linear")
    x, token = inputs_of(8, True, 3, 4)
    new_map, new_token = layer(x, token)
    sequence = np.concatenate([token, x.reshape(2, 12, 8)], axis=1)

    def dense(name, value):
        return value @ numpy(getattr(layer, name).kernel) + numpy(getattr(layer, name).bias)

    q, k, v = (dense(f"proj_{name}", sequence).reshape(2, 13, 2, 4) for name in "qkv")
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * 8**-0.5  # of the width, not of the head's
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    weights = scores / scores.sum(-1, keepdims=True)
    expected = dense("proj", np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, 13, 8))
    np.testing.assert_allclose(numpy(new_token), expected[:, :1], atol=1e-5)
    np.testing.assert_allclose(numpy(new_map).reshape(2, 12, 8), expected[:, 1:], atol=1e-5)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize("training", [False, True])
def test_class_token_only(projection, training):
    """The same class token, gradients and BatchNorm statistics as when everything is computed."""
    x, token = inputs_of(8, True)
    target = normal(2, 1, 8)

    def run(only):
        keras.utils.set_random_seed(1)
        layer = layers.CvTBlock(8, 2, projection=projection, name="block")
        layer(x, token)

        def loss(layer, x, token):
            output = layer(x, token, class_token_only=only, training=training)
            return keras.ops.sum(keras.ops.multiply(output if only else output[1], target))

        return *gradients(loss, layer, x, token), layer.get_weights()

    (ours, grads, weights), (full, full_grads, full_weights) = run(True), run(False)
    assert abs(ours - full) < 1e-4
    for path, full_grad in full_grads.items():
        grad = grads[path]
        if grad is None:  # the queries' convolution, which nothing but the map depends on
            assert not training and "conv_proj_q" in path
            grad = np.zeros_like(full_grad)
        np.testing.assert_allclose(grad, full_grad, atol=1e-4, err_msg=path)
    for ours, theirs in zip(weights, full_weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_drop_path_is_per_sample_and_seeded():
    x = np.ones((1000, 2, 3, 4), "float32")
    first, again = (layers.DropPath(0.25, seed=7) for _ in range(2))
    output = numpy(first(x, training=True))
    kept = output[:, 0, 0, 0] != 0
    assert (output == output[:, :1, :1, :1]).all()
    np.testing.assert_allclose(output[kept], 1 / 0.75, rtol=1e-6)
    assert 0.70 < kept.mean() < 0.80
    np.testing.assert_array_equal(output, numpy(again(x, training=True)))
    assert (numpy(first(x, training=True)) != output).any()  # the next batch has other masks
    np.testing.assert_array_equal(numpy(first(x, training=False)), x)
    one, two = first([x, x[:, :, 0]], training=True)  # the parts of one branch go together
    np.testing.assert_array_equal(numpy(one)[:, 0, 0], numpy(two)[:, 0])


def test_drop_path_in_a_block_drops_map_and_token_together():
    block = layers.CvTBlock(8, 2, drop_path=0.5)
    x, token = normal(64, 3, 3, 8), normal(64, 1, 8)
    new_x, new_token = block(x, token, training=True)
    same_x = (np.abs(numpy(new_x) - x) < 1e-7).all(axis=(1, 2, 3))
    same_token = (np.abs(numpy(new_token) - token) < 1e-7).all(axis=(1, 2))
    assert 0 < same_x.sum() < 40  # both halves dropped: a quarter
    np.testing.assert_array_equal(same_x, same_token)


def test_position_embedding_is_resized():
    layer = layers.PositionEmbedding()
    layer.build((None, 4, 6, 2))
    assert layer.size == (4, 6)
    embedding = numpy(layer.embedding)
    np.testing.assert_array_equal(numpy(layer(np.zeros((1, 4, 6, 2), "float32"))), embedding)
    for size in ((8, 12), (7, 5), (1, 1), (3, 11)):
        ours = numpy(layer(np.zeros((1, *size, 2), "float32")))
        keras_resize = keras.ops.image.resize(
            embedding, size, "bilinear", data_format="channels_last"
        )
        np.testing.assert_allclose(ours, numpy(keras_resize), atol=1e-6)
    with pytest.raises(ValueError, match="height and width"):
        layers.PositionEmbedding().build((None, None, 6, 2))


def test_initialization_by_distribution():
    """The official code's: its linear maps, and torch's default for convolutions."""
    keras.utils.set_random_seed(0)
    block = layers.CvTBlock(256, 4, name="block")
    block.build((None, 8, 8, 256))
    embedding = layers.ConvEmbedding(512, kernel_size=3, name="embedding")
    embedding.build((None, 8, 8, 16))
    token = layers.ClassToken(name="token")
    token.build((None, 8, 8, 4096))
    seen = {}
    for weight in block.weights + embedding.weights + token.weights:
        value, path = numpy(weight), weight.path
        if path.endswith(("gamma", "moving_variance")):
            assert (value == 1).all(), path
        elif path.endswith(("beta", "moving_mean")) or (
            path.endswith("bias") and "embedding" not in path
        ):
            assert (value == 0).all(), path
        elif "conv/kernel" in path or "embedding/proj" in path:
            bound = 1 / 3 if "conv/kernel" in path else 1 / 12  # fan-in 9, and 3 x 3 x 16
            assert np.abs(value).max() <= bound, path
            assert np.abs(value).max() > 0.98 * bound, path
            np.testing.assert_allclose(value.std(), bound / 3**0.5, rtol=0.05, err_msg=path)
        else:
            np.testing.assert_allclose(value.std(), 0.02, rtol=0.05, err_msg=path)
            assert np.abs(value).max() > 0.05, path  # not cut at two deviations
        seen.setdefault(value.shape, []).append(value)
    for values in seen.values():  # no two weights share their random numbers
        for i, value in enumerate(values):
            constant = value.std() == 0
            assert constant or not any((value == other).all() for other in values[:i])


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: layers.ConvEmbedding(0), "embed_dim.*at least 1.*0"),
        (lambda: layers.ConvEmbedding(8, padding=-1), "padding.*at least 0"),
        (lambda: layers.DropPath(1.0), "rate.*less than 1"),
        (lambda: layers.ConvProjectionAttention(10, 3), "num_heads=3 does not divide embed_dim=10"),
        (
            lambda: layers.ConvProjectionAttention(8, 2, projection="conv"),
            "projection.*dw_bn.*conv",
        ),
        (lambda: layers.CvTBlock(8, 2, strides_q=2), "keep the size of the map"),
        (lambda: layers.CvTBlock(8, 2, kernel_size=5), "padding_q=\\(kernel_size - 1\\)"),
        (lambda: layers.CvTBlock(8, 2, mlp_ratio=0), "hidden_dim.*at least 1"),
        (lambda: layers.CvTBlock(8, 2, activation="quick_glu"), "quick_glu"),
        (lambda: layers.CvTBlock(8, 2, dropout=0.1, recompute=True), "rates of 0.*0.1"),
        (lambda: layers.CvTBlock(8, 2).build((None, 4, 4, 6)), "height, width, 8"),
        (lambda: layers.CvTBlock(8, 2).build((None, 16, 8)), "Received shape"),
        (lambda: layers.ConvEmbedding(8).build((None, 4, 4, None)), "must be known"),
        (lambda: layers.ConvEmbedding(8)(np.zeros((1, 2, 9, 3))), "too small.*2, 9, 3"),
        (
            lambda: layers.CvTBlock(8, 2)(np.zeros((1, 4, 4, 8)), class_token_only=True),
            "needs a `class_token`",
        ),
    ],
)
def test_wrong_arguments(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()
