"""Checkpoints in other formats (keras_cvt/conversion.py)."""

from __future__ import annotations

import dataclasses
import json

import keras
import numpy as np
import pytest
import reference_models
from backend import numpy
from reference_models import FILES, TINY, tiny

import keras_cvt
from keras_cvt import checkpoints
from keras_cvt.architecture import VARIANTS
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.conversion import convert
from keras_cvt.structure import stage_configs
from keras_cvt.weights import names


@pytest.mark.parametrize("source", FILES)
def test_conversions_keep_every_bit(saved, tmp_path, source):
    chain = [
        ("a.safetensors", "huggingface"),
        ("b.keras", "official"),
        ("c.weights.h5", "official"),
        ("d.safetensors", "official"),
    ]
    path = saved / source
    for destination, keys in chain:
        convert(path, tmp_path / destination, keys=keys, stages=TINY)
        path = tmp_path / destination
    state = reference_models.state_dict("tiny")
    with checkpoints.read(tmp_path / "a.safetensors") as file:
        assert set(file) == {names.huggingface(key) for key in state}
    with checkpoints.read(path) as file:
        assert set(file) == set(state)
        for key, value in state.items():
            if not key.endswith(names.IGNORED_SUFFIX):
                np.testing.assert_array_equal(file[key], value)
                assert file[key].dtype == value.dtype
    assert not list(tmp_path.glob(".*"))  # nothing half-written is left


def test_conversion_finds_its_configuration(saved, tmp_path):
    source = tmp_path / "model.safetensors"
    source.write_bytes((saved / "huggingface.safetensors").read_bytes())
    with pytest.raises(ValueError, match="no published variant.*--spec"):
        convert(source, tmp_path / "a.keras")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "cvt",
                **json.loads((reference_models.FOLDER / "tiny" / "spec.json").read_text()),
            }
        )
    )
    convert(source, tmp_path / "a.keras")
    model = keras.saving.load_model(tmp_path / "a.keras")
    assert model.input_shape == (None, None, None, 3)
    logits = keras.Model(model.input, model.get_layer("norm").output)
    assert numpy(logits(reference_models.images("odd"))).shape == (2, 64)


def test_a_configuration_beside_goes_before_the_variant_of_the_same_widths(tmp_path, monkeypatch):
    stages = [keras_cvt.StageConfig(8, 2, 2)]
    monkeypatch.setitem(VARIANTS, "CvT13", tuple(stages))
    keras_cvt.CvT(stages, classes=3).save_weights(tmp_path / "a.weights.h5")
    spec = {"embed_dim": [8], "depth": [2], "num_heads": [2], "stride_kv": [[1, 1]]}
    for found, stride in ((spec, 1), ({**spec, "embed_dim": [9]}, 2), ({"unrelated": 1}, 2)):
        (tmp_path / "config.json").write_text(json.dumps(found))
        convert(tmp_path / "a.weights.h5", tmp_path / "b.keras")
        (stage,) = stage_configs(keras.saving.load_model(tmp_path / "b.keras"))
        assert stage.stride_kv == stride


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_deployed_and_quantized_weights_get_no_official_names(tmp_path):
    model = keras_cvt.CvT([keras_cvt.StageConfig(8, 1, 2)], classes=3)
    keras_cvt.deploy(model).save(tmp_path / "deployed.keras")
    model.quantize("int8")
    model.save(tmp_path / "quantized.keras")
    for what in ("deployed", "quantized"):
        with pytest.raises(ValueError, match=f"{what}.keras is {what}: its weights mean nothing"):
            convert(tmp_path / f"{what}.keras", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


def test_weights_go_into_a_model_behind_another_layer(tmp_path):
    stages = [keras_cvt.StageConfig(8, 1, 2)]
    keras_cvt.CvT(stages, classes=3).save_weights(tmp_path / "a.weights.h5")
    image = keras.Input((32, 32, 1))
    colour = keras.layers.Conv2D(3, 1)(keras.layers.Normalization(mean=1, variance=2)(image))
    options = {"classes": 3, "weights": tmp_path / "a.weights.h5"}
    ours = keras_cvt.CvT(stages, input_tensor=colour, **options)
    theirs = keras_cvt.CvT(stages, **options)
    np.testing.assert_array_equal(
        numpy(ours.get_layer("head").kernel), numpy(theirs.get_layer("head").kernel)
    )


def test_a_keras_model_keeps_its_function(tmp_path):
    for options in (
        {"activation": "gelu"},
        {"include_top": False, "pooling": "token"},
        {"include_top": False, "pooling": "max"},
        {"dtype": "float16"},
    ):
        model = tiny(**options)
        model.save(tmp_path / "a.keras")
        convert(tmp_path / "a.keras", tmp_path / "b.keras")
        convert(tmp_path / "a.keras", tmp_path / "c.weights.h5")  # its configuration is in the file
        other = keras.saving.load_model(tmp_path / "b.keras")
        again = tiny(**options, weights=tmp_path / "c.weights.h5")
        x = reference_models.images("odd")
        np.testing.assert_array_equal(numpy(model(x)), numpy(other(x)))
        np.testing.assert_array_equal(numpy(model(x)), numpy(again(x)))


def test_position_embeddings_keep_their_size(tmp_path):
    stages = [dataclasses.replace(TINY[0], position_embedding=True), *TINY[1:]]
    model = keras_cvt.CvT(stages, classes=10, input_shape=(64, 64, 3))
    model.save_weights(tmp_path / "a.weights.h5")
    convert(tmp_path / "a.weights.h5", tmp_path / "a.safetensors")
    for name in ("a.weights.h5", "a.safetensors"):
        convert(tmp_path / name, tmp_path / "b.keras", stages=stages)
        loaded = keras.saving.load_model(tmp_path / "b.keras")
        x = reference_models.images("square")
        np.testing.assert_allclose(numpy(model(x)), numpy(loaded(x)), atol=1e-6)
        # At another size the embedding stays as it is stored, and is resized when it is added.
        larger = keras_cvt.CvT(
            stages, classes=10, input_shape=(96, 128, 3), weights=tmp_path / name
        )
        assert larger.get_layer("stage0_pos_embed").size == (16, 16)


def test_wrong_conversions(saved, tmp_path):
    with pytest.raises(ValueError, match="must end in .safetensors, .weights.h5 or .keras"):
        convert(saved / "official.pth", tmp_path / "a.pth")
    with pytest.raises(ValueError, match="keys"):
        convert(saved / "official.pth", tmp_path / "a.safetensors", keys="timm")
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert(saved / "official.pth", tmp_path / "none" / "a.safetensors")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none.pth", tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_text("mine")
    damaged = bytearray((saved / "official.pth").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.pth").write_bytes(damaged)
    with pytest.raises(CheckpointError):
        convert(tmp_path / "damaged.pth", tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))
