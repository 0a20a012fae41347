"""What a `.keras` file says of its model is compared with the model that takes its weights."""

from __future__ import annotations

import dataclasses
import json
import zipfile

import keras
import numpy as np
import pytest
from backend import numpy
from small_models import images

import keras_cvt
from keras_cvt import StageConfig, weights
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.conversion import convert

STAGES = (
    StageConfig(8, 1, 2, patch_size=7, patch_stride=4, patch_padding=2),
    StageConfig(12, 2, 3, class_token=True, drop_path_rate=0.1),
)


def cvt(stages=STAGES, **options):
    return keras_cvt.CvT(stages, **{"classes": 3, "input_shape": (None, None, 3), **options})


def changed(stage, **options):
    return [dataclasses.replace(s, **options) if i == stage else s for i, s in enumerate(STAGES)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    keras.utils.set_random_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.keras"
    cvt().save(path)
    return path


# Of the same names and shapes, so that without the configuration all of them are filled.
OTHERS = {
    "num_heads": (changed(1, num_heads=6), {}, "num_heads of stage 1: the file has 3, the model 6"),
    "stride_kv": (changed(0, stride_kv=1), {}, "stride_kv of stage 0: the file has 2, the model 1"),
    "of one block": (
        changed(1, stride_kv=(2, 1)),
        {},
        r"stride_kv of stage 1: the file has 2, the model \(2, 1\)",
    ),
    "patch_stride": (
        changed(0, patch_stride=3),
        {},
        "patch_stride of stage 0: the file has 4, .* 3",
    ),
    "patch_padding": (
        changed(0, patch_padding=3),
        {},
        "patch_padding of stage 0: the file has 2, .* 3",
    ),
    "padding_kv": (
        changed(1, padding_kv=0),
        {},
        "padding_kv of stage 1: the file has 1, the model 0",
    ),
    "activation": (
        STAGES,
        {"activation": "gelu"},
        "activation of stage 0: the file has quick_gelu, the model gelu; activation of stage 1",
    ),
    "several": (
        changed(1, num_heads=1, patch_padding=0),
        {},
        "patch_padding of stage 1: the file has 1, the model 0; num_heads of stage 1: .* 3, .* 1",
    ),
    "projection": (
        changed(0, projection="linear"),
        {},
        "projection of stage 0: .* dw_bn, .* linear",
    ),
    "qkv_bias": (changed(0, qkv_bias=False), {}, "qkv_bias of stage 0: .* True, the model False"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_function_is_refused(file, name):
    stages, options, message = OTHERS[name]
    with pytest.raises(ValueError, match=f"weights of another model: {message}") as caught:
        cvt(stages, weights=file, **options)
    assert "\n" not in str(caught.value)
    other = cvt(stages, **options)
    with pytest.raises(ValueError, match=message):
        weights.Weights(file).load(other)


def test_what_may_differ(file):
    expected = numpy(keras.saving.load_model(file)(images(48, 48)))
    same = cvt(
        changed(1, drop_path_rate=0.5, mlp_ratio=4),
        weights=file,
        input_shape=(48, 48, 3),
        recompute=True,
        name="other",
    )
    np.testing.assert_array_equal(numpy(same(images(48, 48))), expected)
    cvt(changed(0, drop_rate=0.5, attention_drop_rate=0.1), weights=file)
    cvt(weights=file, dtype="mixed_bfloat16")
    cvt(weights=file, classes=7)
    cvt(weights=file, include_top=False, pooling="avg")
    logits = numpy(cvt(weights=file, classifier_activation=None)(images(48, 48)))
    np.testing.assert_allclose(numpy(keras.ops.softmax(logits)), expected, atol=1e-6)


def test_convolutions_of_linear_projections_decide_nothing(tmp_path):
    stages = changed(0, projection="linear")
    cvt(stages).save(tmp_path / "linear.keras")
    other = dataclasses.replace(stages[0], stride_kv=1, kernel_qkv=5, padding_q=2)
    cvt([other, stages[1]], weights=tmp_path / "linear.keras")


def test_a_deployed_file(file, tmp_path):
    keras_cvt.deploy(cvt(weights=file)).save(tmp_path / "deployed.keras")
    with pytest.raises(ValueError, match="deployed of stage 0: the file has True, the model False"):
        cvt(weights=tmp_path / "deployed.keras")


def test_of_a_classifier_what_it_reads(file, tmp_path):
    backbone = cvt(include_top=False, pooling="avg", weights=file)
    x = keras.layers.Dropout(0.1)(backbone.output)
    own = keras.Model(backbone.input, keras.layers.Dense(3, name="head")(x))
    own.save(tmp_path / "own.keras")
    message = (
        "classifier reads LayerNormalization of GlobalAveragePooling2D of the last block, that of"
    )
    with pytest.raises(
        ValueError, match=f"{message} 'cvt' LayerNormalization. Use include_top=False"
    ):
        cvt(weights=tmp_path / "own.keras")
    cvt(weights=tmp_path / "own.keras", include_top=False)
    cvt(weights=tmp_path / "own.keras", classes=4)
    token = cvt(include_top=False, pooling="token", weights=file)
    x = keras.layers.Dropout(0.1)(token.output)
    own = keras.Model(token.input, keras.layers.Dense(3, name="head")(x))
    own.save(tmp_path / "own.keras")
    same = cvt(weights=tmp_path / "own.keras", classifier_activation=None)
    np.testing.assert_allclose(numpy(same(images(48, 48))), numpy(own(images(48, 48))), atol=1e-6)


def test_a_cvt_in_another_model(file, tmp_path):
    inputs = keras.Input((48, 48, 3))
    backbone = cvt(include_top=False, weights=file)
    keras.Model(inputs, backbone(keras.layers.Rescaling(0.5)(inputs))).save(tmp_path / "n.keras")
    found = cvt(include_top=False, weights=tmp_path / "n.keras")
    for ours, theirs in zip(found.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    with pytest.raises(ValueError, match="num_heads of stage 1: the file has 3, the model 4"):
        cvt(changed(1, num_heads=4), include_top=False, weights=tmp_path / "n.keras")
    keras.Model(inputs, keras.layers.Dense(4)(backbone(inputs))).save(tmp_path / "n.keras")
    with pytest.raises(ValueError, match="2 of the file not in the model .dense"):
        cvt(include_top=False, weights=tmp_path / "n.keras")
    branches = [cvt(include_top=False, pooling="avg", name=name)(inputs) for name in ("a", "b")]
    keras.Model(inputs, branches).save(tmp_path / "n.keras")
    with pytest.raises(
        CheckpointError, match="weights of 2 CvTs: under 'a/' and 'b/'. Save the one"
    ):
        cvt(weights=tmp_path / "n.keras")


def test_converting_with_a_configuration(file, tmp_path):
    for name in ("other.keras", "other.safetensors"):
        with pytest.raises(ValueError, match="num_heads of stage 1: the file has 3, the model 6"):
            convert(file, tmp_path / name, stages=changed(1, num_heads=6))
    assert list(tmp_path.iterdir()) == []
    convert(file, tmp_path / "same.keras", stages=STAGES)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json beside them"),
        ("{", "config.json is damaged"),
        ("[]", "does not describe a model"),
        ('{"class_name": "CvTBlock", "config": {"name": [1]}}', "config.json is damaged"),
    ],
)
def test_files_with_another_description(file, tmp_path, config, message):
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(tmp_path / "x.keras", "w") as target:
        for name in source.namelist():
            if name != "config.json":
                target.writestr(name, source.read(name))
        if config is not None:
            target.writestr("config.json", config)
    with pytest.raises(CheckpointError, match=message):
        cvt(weights=tmp_path / "x.keras")


def test_every_option_of_a_block_is_compared_or_left_out_on_purpose():
    """A new option of a layer must be thought of here."""
    from keras_cvt.weights import configuration

    block = keras_cvt.CvTBlock(8, 2).get_config()
    of_training = {"attention_dropout", "dropout", "drop_path", "kernel_initializer", "recompute"}
    of_shapes = {"embed_dim", "mlp_ratio"}
    of_layers = {"name", "trainable", "dtype"}
    assert set(block) - set(configuration._OF_A_BLOCK) == of_training | of_shapes | of_layers
    embedding = keras_cvt.ConvEmbedding(8).get_config()
    assert set(embedding) - set(configuration._OF_AN_EMBEDDING) == {"embed_dim", *of_layers}
    json.dumps(configuration.of_stages(STAGES))
