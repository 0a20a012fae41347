"""Names of weights, and what loading refuses (keras_cvt/weights)."""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest
import reference_models
from backend import numpy
from reference_models import FILES, TINY, tiny

import keras_cvt
from keras_cvt import checkpoints, weights
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.weights import names


def test_names_of_all_conventions():
    for path, official, huggingface in (
        ("stage0_patch_embed/proj/kernel", "stage0.patch_embed.proj.weight",
         "cvt.encoder.stages.0.embedding.convolution_embeddings.projection.weight"),
        ("stage2_cls_token/token", "stage2.cls_token", "cvt.encoder.stages.2.cls_token"),
        ("stage1_blocks_12/attn/conv_proj_k/bn/moving_variance",
         "stage1.blocks.12.attn.conv_proj_k.bn.running_var",
         "cvt.encoder.stages.1.layers.12.attention.attention.convolution_projection_key."
         "convolution_projection.normalization.running_var"),
        ("stage1_blocks_0/attn/proj/bias", "stage1.blocks.0.attn.proj.bias",
         "cvt.encoder.stages.1.layers.0.attention.output.dense.bias"),
        ("stage1_blocks_0/mlp/fc2/kernel", "stage1.blocks.0.mlp.fc2.weight",
         "cvt.encoder.stages.1.layers.0.output.dense.weight"),
        ("norm/gamma", "norm.weight", "layernorm.weight"),
        ("head/bias", "head.bias", "classifier.bias"),
    ):  # fmt: skip
        assert names.official(path) == official
        assert names.huggingface(official) == huggingface
        assert names._from_huggingface(huggingface) == official


def test_every_name_of_the_reference_is_made_by_rule():
    state = {k for k in reference_models.state_dict("tiny") if not k.endswith(names.IGNORED_SUFFIX)}
    assert set(weights.named_variables(tiny())) == state
    assert {names._from_huggingface(names.huggingface(k)) for k in state} == state


@pytest.mark.parametrize("file", FILES)
def test_all_formats_give_the_official_logits(saved, file):
    model = tiny(weights=saved / file)
    logits = numpy(model(reference_models.images("odd")))
    official = reference_models.outputs("tiny")["odd_logits"]
    assert np.abs(logits - official).max() < 1e-4


def test_all_formats_fill_the_same_bits(saved):
    first, *others = (tiny(weights=saved / file) for file in FILES)
    for other in others:
        for ours, theirs in zip(first.weights, other.weights, strict=True):
            np.testing.assert_array_equal(numpy(ours), numpy(theirs))


def test_name_scopes_and_names_decide_nothing(saved):
    with keras.name_scope("outer"):
        model = tiny(weights=saved / "official.pth", name="anything")
    logits = numpy(model(reference_models.images("odd")))
    assert np.abs(logits - reference_models.outputs("tiny")["odd_logits"]).max() < 1e-4


def test_other_classes_keep_the_backbone(saved, caplog):
    keras.utils.set_random_seed(3)
    with caplog.at_level(logging.WARNING, "keras_cvt"):
        model = tiny(classes=4, weights=saved / "official.pth")
    assert "is for 10 classes" in caplog.text and "for 4, is new" in caplog.text
    keras.utils.set_random_seed(3)
    fresh = tiny(classes=4)
    for weight, other in zip(model.weights, fresh.weights, strict=True):
        if weight.path.startswith("head"):
            np.testing.assert_array_equal(numpy(weight), numpy(other))
    full = tiny(weights=saved / "official.pth")
    x = reference_models.images("wide")
    features = [numpy(keras.Model(m.input, m.get_layer("norm").output)(x)) for m in (model, full)]
    np.testing.assert_array_equal(*features)


@pytest.mark.parametrize("pooling", [None, "avg", "token"])
def test_backbones(saved, pooling, caplog):
    for file in FILES:
        backbone = tiny(include_top=False, pooling=pooling, weights=saved / file)
        assert not caplog.text
        map_ = keras_cvt.feature_pyramid(backbone)(reference_models.images("wide"))["P4"]
        official = reference_models.outputs("tiny")["wide_stage3"]
        assert np.abs(numpy(map_) - official).max() < 1e-4


def test_a_backbones_file_has_no_classifier(saved, tmp_path):
    tiny(include_top=False, weights=saved / "official.pth").save_weights(tmp_path / "b.weights.h5")
    tiny(include_top=False, weights=tmp_path / "b.weights.h5")
    with pytest.raises(ValueError, match="no classifier.*include_top=False"):
        tiny(weights=tmp_path / "b.weights.h5")
    with pytest.raises(ValueError, match="2 missing from the file .norm"):
        tiny(include_top=False, pooling="avg", weights=tmp_path / "b.weights.h5")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files(tmp_path, dtype):
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    state = {
        k: v.astype(kind) if v.dtype == np.float32 else v
        for k, v in reference_models.state_dict("tiny").items()
    }
    checkpoints.write_safetensors(tmp_path / "half.safetensors", state)
    model = tiny(weights=tmp_path / "half.safetensors")
    head = numpy(weights.named_variables(model)["head.weight"])
    assert head.dtype == np.float32
    np.testing.assert_array_equal(head, state["head.weight"].astype("float32").T)


def test_weights_that_a_dtype_cannot_hold(tmp_path):
    path = _changed(tmp_path, norm__bias=np.full(64, 1e6, "float32"))
    assert numpy(weights.named_variables(tiny(weights=path))["norm.bias"]).max() == 1e6
    with pytest.raises(ValueError, match=r"norm\.bias has values that are not finite in float16"):
        tiny(weights=path, dtype="float16")


def _changed(tmp_path, **changes):
    state = reference_models.state_dict("tiny")
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    checkpoints.write_safetensors(tmp_path / "changed.safetensors", state)
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm__bias": None}, "1 missing from the file .norm.bias"),
        ({"extra__weight": np.zeros(3, "float32")}, "1 of the file not in the model .extra.weight"),
        (
            {"stage1__blocks__1__mlp__fc1__bias": np.zeros(7, "float32")},
            "of another shape .stage1.blocks.1.mlp.fc1.bias .7,. for .128,.",
        ),
        ({"stage0__patch_embed__proj__weight": None}, "no checkpoint of a CvT"),
        *(
            ({"norm__bias": np.ones(64, dtype)}, f"kind of numbers .norm.bias {dtype} for float32")
            for dtype in ("int8", "int64", "bool", "complex64")
        ),
        (
            {"norm__bias": np.full(64, np.nan, "float32")},
            "norm.bias has values that are not finite",
        ),
    ],
)
def test_both_sides_are_used_up(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(weights=_changed(tmp_path, **changes))


def test_nothing_is_filled_when_something_is_wrong(tmp_path):
    model = tiny()
    before = [np.array(numpy(w)) for w in model.weights]  # torch gives a view
    file = weights.Weights(_changed(tmp_path, norm__bias=None))
    with pytest.raises(ValueError):
        file.load(model)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value)


def test_another_variant_is_named(saved, tmp_path):
    # Recognised by its widths and depths: numbers are not needed.
    state = {"stage0.patch_embed.proj.weight": np.zeros((64, 3, 7, 7), "float32")}
    for stage, (width, before, depth) in enumerate(((64, 3, 1), (192, 64, 4), (384, 192, 16))):
        kernel = np.zeros((width, before, 7 if stage == 0 else 3, 1), "float32")
        state[f"stage{stage}.patch_embed.proj.weight"] = kernel
        for block in range(depth):
            state[f"stage{stage}.blocks.{block}.norm1.bias"] = np.zeros(width, "float32")
    checkpoints.write_safetensors(tmp_path / "21.safetensors", state)
    with pytest.raises(ValueError, match="this is a CvT21.*model is a CvT13"):
        keras_cvt.CvT13(weights=tmp_path / "21.safetensors")
    with pytest.raises(ValueError, match="widths 16, 32, 64 and depths 1, 2, 3.*is a CvT13"):
        keras_cvt.CvT13(weights=saved / "official.pth")


def test_channels_and_paths(saved):
    with pytest.raises(ValueError, match="images of 3 channels, the model for 1"):
        keras_cvt.CvT(TINY, classes=10, input_shape=(64, 64, 1), weights=saved / "official.pth")
    with pytest.raises(FileNotFoundError, match="nothing.keras"):
        tiny(weights="nothing.keras")
    with pytest.raises(ValueError, match="must be one of None, 'imagenet'.*Or the path of a file"):
        keras_cvt.CvT13(weights="imagnet")


def test_a_keras_model_of_something_else(tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(CheckpointError, match="no checkpoint of a CvT"):
        tiny(weights=tmp_path / "other.keras")


def test_table():
    assert len({(row.model, name) for row in weights.PUBLISHED for name in row.names}) == 8
    text = weights.table()
    for row in weights.PUBLISHED:
        assert row.repo in text and str(row.top1) in text
        assert row.revision == "main" or len(row.revision) == 40
        assert (row.crop is None) == (row.image_size == 384)
