"""Runtimes, engines and Parquet parts of `keras-cvt predict` and `embed` (keras_cvt/cli/jobs.py)."""

import csv
import importlib.util
import json
import sys

import keras
import numpy as np
import pytest
from export_cases import LABELS, ONE_BLOCK, small
from PIL import Image

import keras_cvt
from keras_cvt import export
from keras_cvt.cli import main
from keras_cvt.inference.embedding import embedding_model

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos):
    """A model, its OpenVINO file, and photos of which one is broken."""
    folder = tmp_path_factory.mktemp("jobs")
    model = keras_cvt.with_class_names(small((96, 96), ONE_BLOCK), LABELS)
    model.save(folder / "small.keras")
    if importlib.util.find_spec("openvino"):
        export.to_openvino(model, folder / "small.xml", crop=None)
    (folder / "photos").mkdir()
    for name, photo in zip(("china", "flower"), photos, strict=True):
        Image.fromarray(photo).save(folder / "photos" / f"{name}.png")
    (folder / "photos" / "broken.jpg").write_bytes(b"")
    return folder


def test_predict_writes_parts_and_goes_on(folder, tmp_path, capsys):
    command = ["predict", str(folder / "photos"), "--model", str(folder / "small.keras")]
    assert main([*command, "--json"]) == 1
    broken, china, _ = json.loads(capsys.readouterr().out)
    command += ["--output", str(tmp_path / "answers")]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert said.startswith("3 images, 3 of them now, ") and "; 1 without an answer" in said
    rows = parquet.read_table(tmp_path / "answers").to_pylist()
    assert rows[0]["error"] == broken["error"] and rows[1]["path"] == china["image"]
    assert rows[1]["labels"] == [answer["label"] for answer in china["classes"]]
    np.testing.assert_allclose(
        rows[1]["scores"], [answer["score"] for answer in china["classes"]], atol=1e-6
    )
    assert main(command) == 1  # nothing is left to do; the broken one is still counted
    captured = capsys.readouterr()
    assert "1 of 1 parts are there" in captured.err
    assert captured.out.startswith("3 images, 0 of them now; 1 without an answer; 1 parts in ")
    assert main([*command, "--top", "2"]) == 2
    assert "was begun with another top" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not here")
def test_an_exported_file_knows_its_pictures_and_classes(folder, tmp_path, capsys):
    photos = str(folder / "photos" / "china.png")
    assert main(["predict", photos, "--model", str(folder / "small.xml"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    pixels = keras_cvt.load_image(photos, 96, crop=None)  # as it was exported
    model = keras.saving.load_model(folder / "small.keras")
    expected = np.asarray(model(keras_cvt.preprocess_input(pixels[np.newaxis])))[0]
    scores = {answer["label"]: answer["score"] for answer in found["classes"]}
    np.testing.assert_allclose([scores[name] for name in LABELS], expected, atol=1e-5)

    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "other.xml").write_text("<net/>")
    (tmp_path / "other.bin").write_bytes(b"")
    for more, message in (
        (["--weights", "imagenet"], "--weights is of Keras models"),
        (["--image-size", "64"], "--image-size is of Keras models"),
        (["--runtime", "onnx"], "ends in .onnx: not small.xml"),
        (["--labels", str(tmp_path / "two.txt")], "has 5 classes, but there are 2 labels"),
        (["--top", "6"], "--top 6: there are 5 classes"),
        (["--model", str(tmp_path / "none.xml")], "There is no file"),
        (["--model", str(tmp_path / "other.xml")], "can't be opened by openvino"),
    ):
        assert main(["predict", photos, "--model", str(folder / "small.xml"), *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    command = ["embed", photos, "--model", str(folder / "small.xml"), "--csv", "a.csv"]
    assert main(command) == 2
    assert "embed needs a Keras model" in capsys.readouterr().err


def test_embed(folder, tmp_path, capsys):
    command = ["embed", str(folder / "photos"), "--model", str(folder / "small.keras")]
    assert main([*command, "--csv", str(tmp_path / "a.csv")]) == 1
    assert "broken.jpg: empty" in capsys.readouterr().err
    with open(tmp_path / "a.csv", newline="") as file:
        heads, broken, china, _ = csv.reader(file)
    model = keras.saving.load_model(folder / "small.keras")
    batch = keras_cvt.preprocess_input(
        keras_cvt.load_image(folder / "photos" / "china.png", 96)[np.newaxis]
    )
    (vector,) = np.asarray(embedding_model(model)(batch))
    assert heads == ["image", "error", *map(str, range(len(vector)))] and len(broken) == 2
    np.testing.assert_allclose(np.array(china[2:], float), vector, atol=1e-5)
    # The classifier makes its answers of it.
    head = model.get_layer("head")
    answers = keras.ops.softmax(head.kernel.numpy().T @ vector + head.bias)
    np.testing.assert_allclose(answers, np.asarray(model(batch))[0], atol=1e-5)

    output = tmp_path / "parts"
    assert main([*command, "--layer", "P1", "--output", str(output)]) == 1
    table = parquet.read_table(output)
    (level,) = np.asarray(keras_cvt.feature_pyramid(model)(batch)["P1"]).mean(axis=(1, 2))
    row = table.to_pylist()[1]
    np.testing.assert_allclose(row["embedding"], level, atol=1e-5)
    capsys.readouterr()
    assert main([*command, "--layer", "P9", "--csv", str(tmp_path / "b.csv")]) == 2
    assert "`layer` must be one of" in capsys.readouterr().err
    assert main(command) == 2
    assert "--output --csv is required" in capsys.readouterr().err.replace(",", "")


def test_embeddings_of_a_backbone():
    backbone = keras_cvt.CvT(ONE_BLOCK, include_top=False, input_shape=(96, 96, 3))
    vectors = embedding_model(backbone)
    assert vectors.output_shape == (None, ONE_BLOCK[-1].embed_dim)
    bfloat16 = small((96, 96), ONE_BLOCK, dtype="mixed_bfloat16")
    assert embedding_model(bfloat16).output.dtype == "float32"


def test_options_that_do_not_fit(folder, tmp_path, capsys, monkeypatch):
    command = ["predict", str(folder / "photos"), "--model", "none.keras"]
    (tmp_path / "file").write_text("")
    for more, message in (
        (["--address", "auto"], "--address goes with --engine ray"),
        (["--workers", "2"], "--workers goes with --engine ray"),
        (["--engine", "ray"], "--engine ray writes Parquet parts: give --output DIR"),
        (["--output", str(tmp_path / "no" / "a")], "There is no folder"),
        (["--output", str(tmp_path / "file")], "is a file; it must be a folder"),
        (["--gpus-per-worker", "-1", "--engine", "ray"], "must be a number, at least 0"),
    ):
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    for module, option, extra in (("pyarrow", [], "parquet"), ("ray", ["--engine", "ray"], "ray")):
        monkeypatch.setitem(sys.modules, module, None)
        assert main([*command, "--output", str(tmp_path / "a"), *option]) == 2
        error = capsys.readouterr().err
        assert f'pip install ".[{extra}]"' in error and error.count("\n") == 1
        monkeypatch.undo()
