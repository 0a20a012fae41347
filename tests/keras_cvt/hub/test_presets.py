"""Presets of published weights, on a hub, and made by the command line. TensorFlow and JAX."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
import pytest
from hub import Hub
from small_models import TINY, build

import keras_cvt
from keras_cvt import cli, conversion, hub, weights
from keras_cvt.architecture import VARIANTS
from keras_cvt.hub import published

CHECKOUT = Path(keras_cvt.__file__).parents[1]
ROW = weights.PUBLISHED[0]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Empty folders for downloads, and a function that has the hub's client use a server."""
    import huggingface_hub.constants as constants
    import huggingface_hub.file_download as file_download
    import huggingface_hub.hf_api as hf_api

    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)

    def use(server):
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(hf_api.api, "endpoint", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in (constants, file_download):  # up to 0.34, the latter has a copy
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)

    return use


@pytest.fixture
def small_variants(monkeypatch):
    """Stands in for the official configurations, which would be 80 MB and more."""
    for variant in VARIANTS:
        monkeypatch.setitem(VARIANTS, variant, TINY)
    published.register()  # forgets the folders that other tests have made


def pixels(height, width, batch=2):
    shape = (batch, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def test_names():
    assert list(hub.CvTBackbone.presets) == list(hub.CvTImageClassifier.presets)
    assert list(hub.CvTBackbone.presets) == [
        *("cvt13_imagenet", "cvt13_imagenet_384", "cvt13_imagenet22k_384"),
        *("cvt21_imagenet", "cvt21_imagenet_384", "cvt21_imagenet22k_384"),
        "cvtw24_imagenet22k_384",
    ]
    assert "81.6 %" in hub.CvTBackbone.presets["cvt13_imagenet"]["metadata"]["description"]
    assert "cvt13_imagenet" in keras_hub.models.ImageClassifier.presets


def test_the_quick_start_of_keras_hub(client, small_variants, photos, tmp_path):
    """https://keras.io/keras_hub/guides/classification_with_keras_hub, with our name."""
    model = build(TINY, classes=1000, classifier_activation=None)
    model.save(tmp_path / "model.keras")
    conversion.convert(tmp_path / "model.keras", tmp_path / "model.safetensors", "huggingface")
    data = (tmp_path / "model.safetensors").read_bytes()
    with Hub({(ROW.repo, ROW.revision, "model.safetensors"): data}) as server:
        client(server)
        classifier = keras_hub.models.ImageClassifier.from_preset(
            "cvt13_imagenet", activation="softmax"
        )
        image = np.array([photos[0]])
        predictions = classifier.predict(image, verbose=0)
        asked = len(server.requests)
        fine = keras_hub.models.ImageClassifier.from_preset("cvt13_imagenet", num_classes=2)
        converter = keras_hub.layers.ImageConverter.from_preset("cvt13_imagenet")
        backbone = keras_hub.models.Backbone.from_preset("cvt13_imagenet")
        assert len(server.requests) == asked  # all of it is there
    ready = keras_cvt.preprocess_input(keras_cvt.load_image(photos[0])[np.newaxis])
    np.testing.assert_allclose(converter(image), ready, atol=0.02)
    expected = keras.ops.softmax(model(ready, training=False))
    expected = keras.ops.convert_to_numpy(expected)
    np.testing.assert_allclose(predictions, expected, rtol=0.02)
    best = keras_cvt.decode_predictions(predictions, top=5)[0]
    assert [len(each) for each in best] == [3] * 5
    fine.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    fine.fit(np.stack(photos), np.array([0, 1]), batch_size=2, verbose=0)
    assert fine.predict(image, verbose=0).shape == (1, 2)
    assert backbone.count_params() == fine.backbone.count_params()
    (folder,) = (tmp_path / "keras/models/keras_cvt").iterdir()
    card = (folder / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "The paper reports (Table 3) 81.6 % top-1" in card
    assert ROW.repo in card


def test_published_weights_that_cannot_be_had(client, small_variants, tmp_path):
    with Hub({("other/repo", "main", "x"): b""}) as server:
        client(server)
        with pytest.raises(weights.DownloadError, match="could not be had"):
            hub.CvTImageClassifier.from_preset("cvt21_imagenet")
    assert not (tmp_path / "keras").exists()


def test_a_preset_on_a_hub(client, tmp_path):
    task = hub.from_model(build(TINY, input_shape=(32, 32, 3)))
    x = pixels(50, 40)
    expected = task.predict(x, verbose=0)
    preset = tmp_path / "preset"
    task.save_to_preset(preset)
    with pytest.raises(FileNotFoundError, match="no model card"):
        hub.upload_preset("hf://me/mine", preset)
    hub.write_model_card(
        preset, license="mit", recipe="by hand", data="noise", accuracy="20 % of 5 classes"
    )
    with Hub({}) as server:
        client(server)
        hub.upload_preset("hf://me/mine", preset)
        card = server.files["me/mine", "main", "README.md"].decode()
        assert card == (preset / "README.md").read_text()  # not KerasHub's own
        for said in ("library_name: keras-hub", "license: mit", "by hand", "noise", "20 % of 5"):
            assert said in card
        assert "widths 8, 12, 16 and depths 1, 1, 2" in card
        for kind in (keras_hub.models.ImageClassifier, hub.CvTImageClassifier):
            loaded = kind.from_preset("hf://me/mine")
            np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
        assert cli.main(["convert", "hf://me/mine", str(tmp_path / "back.keras")]) == 0
    model = keras.saving.load_model(tmp_path / "back.keras")
    ready = np.stack([keras_cvt.load_image(image, 32) for image in x])
    found = model.predict(keras_cvt.preprocess_input(ready), verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_kaggle_is_asked_by_keras_hub(tmp_path, monkeypatch):
    import kagglehub

    hub.from_model(build(TINY, input_shape=(32, 32, 3))).save_to_preset(tmp_path / "preset")
    asked = []

    def download(handle, path):
        asked.append(handle)
        if not (tmp_path / "preset" / path).is_file():
            raise ValueError(f"{path} is not present in the model files")
        return str(tmp_path / "preset" / path)

    monkeypatch.setattr(kagglehub, "model_download", download)
    loaded = keras_hub.models.ImageClassifier.from_preset("kaggle://me/cvt/keras/mine")
    assert type(loaded) is hub.CvTImageClassifier
    assert {*asked} == {"me/cvt/keras/mine"}


def run_folder(path, model):
    path.mkdir()
    model.save(path / "model.keras")
    config = {"data": {"source": "digits", "image_size": 32}, "optim": {"epochs": 12}, "seed": 0}
    report = {"top1": 0.985, "top5": 1.0, "correct": 354, "images": 360}
    (path / "config.json").write_text(json.dumps(config))
    (path / "report.json").write_text(json.dumps(report))
    return path


def test_one_command_from_a_run_to_a_preset_and_back(tmp_path):
    model = keras_cvt.with_class_names(build(TINY, input_shape=(32, 32, 3)), list("abcde"))
    run = run_folder(tmp_path / "run", model)
    assert cli.main(["convert", str(run), str(tmp_path / "preset")]) == 0
    card = (tmp_path / "preset/README.md").read_text()
    assert "Top-1 98.50 %" in card
    assert "354 of 360" in card
    assert "epochs 12" in card
    assert "`digits`" in card
    task = keras_hub.models.ImageClassifier.from_preset(str(tmp_path / "preset"))
    assert task.class_names == tuple("abcde")
    x = np.stack([keras_cvt.load_image(image, 32) for image in pixels(50, 40)])
    expected = model.predict(keras_cvt.preprocess_input(x), verbose=0)
    np.testing.assert_allclose(task.predict(x, verbose=0), expected, atol=1e-5)
    assert cli.main(["convert", str(tmp_path / "preset"), str(tmp_path / "back.keras")]) == 0
    back = keras.saving.load_model(tmp_path / "back.keras")
    found = back.predict(keras_cvt.preprocess_input(x), verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert keras_cvt.class_names(back) == tuple("abcde")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.keras", "preset"], "none.keras"),
        (["none.keras", "there"], "exists and is kept"),
        (["none.keras", "preset", "--keys", "huggingface"], "not for presets"),
        (["hf://me/mine", "mine.safetensors"], "becomes a .keras file"),
    ],
)
def test_what_the_command_refuses(tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert cli.main(["convert", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_without_keras_hub_one_line_says_what_to_install():
    code = """
import sys
from pathlib import Path
sys.modules["keras_hub"] = None  # as if it were not installed
import keras_cvt
try:
    import keras_cvt.hub
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stdout.splitlines()
    assert 'pip install ".[hub]"' in line


def test_the_examples_of_the_documentation(client, small_variants, photos, tmp_path, monkeypatch):
    """docs/kerashub.md runs as it is, from top to bottom."""
    from PIL import Image

    text = (CHECKOUT / "docs/kerashub.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    build(TINY, classes=1000).save(tmp_path / "model.keras")
    conversion.convert(tmp_path / "model.keras", tmp_path / "model.safetensors", "huggingface")
    data = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photos[0]).save("cat.jpg")
    names = {"keras": keras, "images": np.stack(photos), "labels": np.array([0, 1])}
    with Hub({(ROW.repo, ROW.revision, "model.safetensors"): data}) as server:
        client(server)
        for block in blocks:
            exec(block, names)
        assert ("me/cvt13-pets", "main", "model.weights.h5") in server.files
    assert names["predictions"].shape == (1, 1000)
    assert [*names["pyramid"].output] == ["P2", "P3", "P4"]
    assert names["model"].output_shape == (None, 2)
