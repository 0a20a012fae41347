"""Each layer by itself (keras_cvt/layers). Runs on all backends of Keras."""

import json

import keras
import numpy as np
import pytest
from backend import BACKEND, compiled, gradients

import keras_cvt
from keras_cvt import layers
from keras_cvt._keras_internal import flatten_layers, sublayers
from keras_cvt._validation import PROJECTIONS
from keras_cvt.layers.common import pad

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def numpy(x):
    return keras.ops.convert_to_numpy(x)


# name: (layer class, arguments, channels of the map, with a class token, number of weights)
CASES = {
    "embedding": (layers.ConvEmbedding, {"embed_dim": 8}, 3, False, 4),
    "patches": (
        layers.ConvEmbedding,
        {"embed_dim": 8, "kernel_size": 4, "strides": 4, "padding": 0},
        3,
        False,
        4,
    ),
    "projection": (layers.ConvProjection, {"strides": 2}, 8, False, 5),
    "token": (layers.ClassToken, {}, 8, False, 1),
    "position": (layers.PositionEmbedding, {"size": (5, 6)}, 8, False, 1),
    "mlp": (layers.MLP, {"hidden_dim": 12}, 8, False, 4),
    "drop_path": (layers.DropPath, {"rate": 0.5, "seed": 1}, 8, False, 0),
    "attention": (layers.ConvProjectionAttention, {"embed_dim": 8, "num_heads": 2}, 8, False, 23),
    "attention_token": (
        layers.ConvProjectionAttention,
        {"embed_dim": 8, "num_heads": 4, "strides_q": 2, "strides_kv": 1},
        8,
        True,
        23,
    ),
    "attention_linear": (
        layers.ConvProjectionAttention,
        {"embed_dim": 8, "num_heads": 2, "projection": "linear", "use_bias": False},
        8,
        True,
        5,
    ),
    "block": (layers.CvTBlock, {"embed_dim": 8, "num_heads": 2}, 8, False, 31),
    "block_recompute": (
        layers.CvTBlock,
        {"embed_dim": 8, "num_heads": 2, "recompute": True},
        8,
        True,
        31,
    ),
    "block_token": (
        layers.CvTBlock,
        {
            "embed_dim": 8,
            "num_heads": 2,
            "mlp_ratio": 2.5,
            "kernel_size": 5,
            "padding_q": 2,
            "padding_kv": 0,
            "dropout": 0.1,
            "attention_dropout": 0.2,
            "drop_path": 0.3,
            "activation": "gelu",
            "kernel_initializer": "glorot_uniform",
        },
        8,
        True,
        31,
    ),
}


def make(case, **options):
    cls, arguments, channels, token, weights = CASES[case]
    return cls(**arguments, **options), channels, token, weights


def inputs_of(channels, token, height=9, width=13):
    x = [normal(2, height, width, channels)]
    return [*x, normal(2, 1, channels)] if token else x


def shapes(outputs):
    return [tuple(x.shape) for x in keras.tree.flatten(outputs)]


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


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16", "float64"])
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
    variable = keras.dtype_policies.get(policy).variable_dtype
    for output in outputs:
        assert keras.backend.standardize_dtype(output.dtype) == compute
        assert np.isfinite(numpy(keras.ops.cast(output, "float32"))).all()
    for sublayer in flatten_layers(layer):
        # BatchNorm computes in float32 what its convolution gives it.
        expected = variable if sublayer.name == "conv" else policy
        assert sublayer.dtype_policy.name == expected, sublayer.name
    for weight in layer.weights:
        assert weight.dtype == variable, weight.path


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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.function is TensorFlow's")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("jit", [False, True])
def test_class_token_only_of_unknown_sizes(jit, training):
    import tensorflow as tf

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


# --- what each layer computes ------------------------------------------------------------------


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
