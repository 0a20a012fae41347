"""The class token's attention: exactly what the model computes, and where it is (attention.py)."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
import reference_models
from backend import floats
from small_models import images

import keras_cvt
from keras_cvt import StageConfig, attention_maps, plot_attention

KV_STRIDES = [
    StageConfig(8, 1, 1, patch_size=7, patch_stride=4, patch_padding=2),
    StageConfig(16, 3, 2, class_token=True, stride_kv=(1, 2, 3), padding_kv=0),
]


def trained(stages=KV_STRIDES, **options):
    """A model with attention that is far from equal, and statistics that are not those of a new one."""
    keras.utils.set_random_seed(0)
    options = {"classes": 5, "input_shape": (None, None, 3), **options}
    model = keras_cvt.CvT(stages, **options)
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "seed" not in weight.path:
            noise = rng.normal(size=weight.shape) * (0.4 if weight.path.endswith("kernel") else 0.2)
            variance = weight.path.endswith("moving_variance")
            weight.assign(np.exp(noise) if variance else floats(weight) + noise)
    return model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The reference model with the official code's outputs."""
    return reference_models.model("tiny", tmp_path_factory.mktemp("weights"))


def by_hand(model, block, x, token):
    """All attention weights of one block in NumPy, from the block's weights and its input."""
    weights = {w.path.partition(f"{block.name}/")[2]: floats(w) for w in block.weights}
    attn = block.attn

    def norm(t):
        mean, variance = t.mean(-1, keepdims=True), t.var(-1, keepdims=True)
        t = (t - mean) / np.sqrt(variance + 1e-5)
        return t * weights["norm1/gamma"] + weights["norm1/beta"]

    def tokens(letter, strides, padding):
        kernel = weights[f"attn/conv_proj_{letter}/conv/kernel"][..., 0]
        size = len(kernel)
        padded = np.pad(norm(x), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
        y = np.einsum("nhwcij,ijc->nhwc", windows[:, ::strides, ::strides], kernel)
        gamma, beta, mean, variance = (
            weights[f"attn/conv_proj_{letter}/bn/{name}"]
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        y = (y - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        y = np.concatenate([norm(token), y.reshape(len(y), -1, y.shape[-1])], axis=1)
        y = y @ weights[f"attn/proj_{letter}/kernel"] + weights[f"attn/proj_{letter}/bias"]
        return y.reshape(*y.shape[:2], attn.num_heads, -1)

    q = tokens("q", 1, attn.padding_q)
    k = tokens("k", attn.strides_kv, attn.padding_kv)
    scores = np.einsum("nqhc,nkhc->nhqk", q, k) * attn.embed_dim**-0.5
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def inputs_of(model, name, x):
    block = model.get_layer(name)
    return [floats(t) for t in keras.Model(model.input, block.input)(x, training=False)]


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (57, 43)])
def test_every_block_by_hand(size):
    model, x = trained(), images(*size)
    found = attention_maps(model, x)
    for j, keys in enumerate(found.keys):
        name = f"stage1_blocks_{j}"
        expected = by_hand(model, model.get_layer(name), *inputs_of(model, name, x))[:, :, 0]
        np.testing.assert_allclose(found.token[:, j], expected[..., 0], atol=1e-5)
        np.testing.assert_allclose(keys.reshape(2, 2, -1), expected[..., 1:], atol=1e-5)
        assert expected.max() > 2 * expected.mean()  # it means something


def test_the_official_weights_with_their_intermediates(tiny):
    """The value that the last block makes of the weights is the one that the head sees."""
    x = reference_models.images("wide")
    found = attention_maps(tiny, x)
    block = tiny.get_layer(f"stage2_blocks_{len(found.keys) - 1}")
    features, token = (block.norm1(t) for t in inputs_of(tiny, block.name, x))
    values = floats(block.attn.conv_proj_v(features))
    values = np.concatenate([floats(token), values.reshape(len(x), -1, values.shape[-1])], axis=1)
    values = floats(block.attn.proj_v(values))
    heads = block.attn.num_heads
    values = values.reshape(*values.shape[:2], heads, -1)
    keys = found.keys[-1].reshape(len(x), heads, -1)
    weights = np.concatenate([found.token[:, -1, :, np.newaxis], keys], axis=-1)
    mixed = np.einsum("nhk,nkhc->nhc", weights, values).reshape(len(x), 1, -1)
    expected = block.attn(features, class_token=token, class_token_only=True)
    np.testing.assert_allclose(floats(block.attn.proj(mixed)), floats(expected), atol=1e-5)


def test_sums(tiny):
    for size in reference_models.SIZES:
        found = attention_maps(tiny, reference_models.images(size))
        on_keys = np.stack([keys.sum((-2, -1)) for keys in found.keys], axis=1)
        np.testing.assert_allclose(on_keys + found.token, 1, atol=1e-5)
        np.testing.assert_allclose(found.maps.sum((-2, -1)), on_keys, atol=1e-5)
        height, width = reference_models.outputs("tiny")[f"{size}_stage3"].shape[1:3]
        assert found.maps.shape[-2:] == found.rollout.shape[1:] == (height, width)
        assert all(x.min() >= 0 and x.max() <= 1 for x in (found.maps, found.rollout, found.token))


CONFIGURATIONS = {
    "key strides": {},
    "linear": {"stages": [{**vars(s), "projection": "linear"} for s in KV_STRIDES]},
    "class token everywhere": {"stages": [{**vars(s), "class_token": True} for s in KV_STRIDES]},
    "one stage": {"stages": KV_STRIDES[1:]},
    "map": {"include_top": False},
    "token": {"include_top": False, "pooling": "token"},
    "dropout": {"stages": [{**vars(s), "attention_drop_rate": 0.5} for s in KV_STRIDES]},
    "bfloat16": {"dtype": "mixed_bfloat16"},
}


@pytest.mark.parametrize("options", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_deployed_is_the_same(options):
    model = trained(**options)
    x = images(48, 80)
    before = floats(model(x, training=False))
    found = attention_maps(model, x)
    assert found.maps.shape[:3] == (2, 3, 2) and found.maps.dtype == np.float32
    deployed = attention_maps(keras_cvt.deploy(model), x)
    tolerance = 0.1 if "dtype" in options else 1e-5
    for name in ("token", "maps", "rollout"):
        ours, theirs = getattr(found, name), getattr(deployed, name)
        np.testing.assert_allclose(ours, theirs, atol=tolerance)
        assert ours.std() > 1e-3 or name == "rollout"
    np.testing.assert_array_equal(floats(model(x, training=False)), before)


def test_rollout_is_the_product_of_the_matrices():
    model, x = trained(), images(48, 80)
    found = attention_maps(model, x)
    height, width = found.rollout.shape[1:]
    product = np.eye(1 + height * width)[np.newaxis]
    for j, keys in enumerate(found.keys):
        name = f"stage1_blocks_{j}"
        weights = by_hand(model, model.get_layer(name), *inputs_of(model, name, x)).mean(axis=1)
        # Every row to the map's resolution, in the way that the class token's is.
        stride = model.get_layer(name).attn.strides_kv
        on_map = np.zeros((2, 1 + height * width, height, width))
        places = [
            np.clip((np.arange(side) - 1) / stride, 0, count - 1)  # 3x3 kernels without padding
            for side, count in zip((height, width), keys.shape[-2:], strict=True)
        ]
        grid = weights[..., 1:].reshape(2, -1, *keys.shape[-2:])
        for a, row in enumerate(places[0]):
            for b, column in enumerate(places[1]):
                for i in {int(row), min(int(row) + 1, grid.shape[2] - 1)}:
                    for k in {int(column), min(int(column) + 1, grid.shape[3] - 1)}:
                        share = max(1 - abs(row - i), 0) * max(1 - abs(column - k), 0)
                        on_map[:, :, a, b] += share * grid[:, :, i, k]
        on_map *= (grid.sum((-2, -1)) / on_map.sum((-2, -1)))[..., np.newaxis, np.newaxis]
        matrix = np.concatenate([weights[..., :1], on_map.reshape(2, -1, height * width)], axis=-1)
        product = (matrix + np.eye(len(matrix[0]))) / 2 @ product
    np.testing.assert_allclose(product.sum(-1), 1, atol=1e-5)
    expected = product[:, 0, 1:].reshape(2, height, width)
    np.testing.assert_allclose(found.rollout, expected, atol=1e-5)


def test_where_the_positions_are():
    """The pixels of which a position of the last map is made lie around the place that is told."""
    stages = reference_models.stages("tiny")
    model = trained(stages)
    found = attention_maps(model, images(64, 96))
    embeddings = [model.get_layer(f"stage{i}_patch_embed") for i in range(len(stages))]

    def embedded(x):
        for layer in embeddings:
            x = layer(x)
        return floats(x)

    x = np.repeat(images(64, 64, batch=1), 64, axis=0)
    moved = x.copy()
    moved[np.arange(64), np.arange(64)] += 1  # in the n-th image its n-th line
    seen = np.abs(embedded(moved) - embedded(x)).max((2, 3)) > 1e-6  # (lines, map lines)
    for position in range(1, seen.shape[1] - 1):
        lines = np.flatnonzero(seen[:, position])
        assert (lines[0] + lines[-1]) / 2 == found.start + found.stride * position
    assert (found.start, found.stride, found.image_size) == (1, 16, (64, 96))


def test_keys_lie_at_their_kernels_centres():
    model = trained(
        [StageConfig(8, 1, 1, class_token=True, patch_size=4, patch_stride=4, patch_padding=0)]
    )
    block = model.get_layer("stage0_blocks_0")
    block.attn.proj_q.kernel.assign(np.zeros((8, 8)))
    block.attn.proj_q.bias.assign(np.zeros(8))
    found = attention_maps(model, images(32, 32))  # all weights are equal
    np.testing.assert_allclose(found.maps, found.maps[0, 0, 0, 0, 0], rtol=1e-5)
    grid = keras_cvt.analysis.attention._Grid(block.attn, 8, 8)
    one = np.zeros(grid.size, "float32")
    one[1, 2] = 1  # at stride 2 and padding 1 it stands at (2, 4)
    expected = np.zeros((8, 8))
    expected[1:4, 3:6] = np.outer([0.5, 1, 0.5], [0.5, 1, 0.5])
    np.testing.assert_array_equal(grid.on_map(one), expected)


def test_wrong_use(tmp_path):
    model = trained()
    with pytest.raises(ValueError, match=r"image\[np.newaxis\]"):
        attention_maps(model, images(32, 32)[0])
    without = trained([{**vars(s), "class_token": False} for s in KV_STRIDES])
    with pytest.raises(ValueError, match="last stage of 'cvt' has none"):
        attention_maps(without, images(32, 32))
    with pytest.raises(ValueError, match="made by keras_cvt"):
        attention_maps(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), images(32, 32))


# --- pictures -----------------------------------------------------------------------------------


def spot(row, column, size=(64, 96)):
    """All attention at one position."""
    maps = np.zeros((1, 2, 3, size[0] // 16, size[1] // 16), "float32")
    maps[..., row, column] = 0.5
    token = np.full((1, 2, 3), 0.5, "float32")
    keys = (np.zeros((1, 3, 2, 3), "float32"),) * 2
    return keras_cvt.AttentionMaps(keys, token, maps, maps[:, 0, 0], size, 1.0, 16)


@pytest.mark.parametrize("scale", [1, 2])
def test_the_overlay_is_where_the_attention_is(scale):
    picture = np.zeros((64 * scale, 96 * scale, 3), "uint8")
    figure = plot_attention(picture, spot(2, 3))
    assert [axes.get_title() for axes in figure.axes] == [
        "picture",
        "block 1: 50%",
        "block 2: 50%",
        "rollout",
    ]
    for axes in figure.axes[1:]:
        brightness = np.asarray(axes.images[0].get_array()).sum(-1)
        row, column = np.unravel_index(brightness.argmax(), brightness.shape)
        assert abs((row + 0.5) / scale - 0.5 - (1 + 16 * 2)) <= 0.5
        assert abs((column + 0.5) / scale - 0.5 - (1 + 16 * 3)) <= 0.5


def test_pictures_of_every_kind(tmp_path):
    attention = dataclasses.replace(spot(0, 0), rollout=np.zeros((1, 4, 6), "float32"))
    for shape in ((64, 96), (64, 96, 1), (33, 50, 3)):
        figure = plot_attention(np.full(shape, 255, "uint8"), attention)
        figure.savefig(tmp_path / "a.png", dpi=30)
        for axes in figure.axes:
            for image in axes.images:
                assert np.isfinite(np.asarray(image.get_array(), "float32")).all()
    with pytest.raises(ValueError, match="`picture` must be"):
        plot_attention(np.zeros((2, 64, 96, 3), "uint8"), attention)
    with pytest.raises(ValueError, match="from 0 to 0. Received 1"):
        plot_attention(np.zeros((64, 96, 3), "uint8"), attention, index=1)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_attention(np.zeros((64, 96, 3), "uint8"), spot(0, 0))
