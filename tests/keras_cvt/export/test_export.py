"""Export: every format is run by its own runtime, and answers as Keras does (keras_cvt.export)."""

from __future__ import annotations

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from export_cases import LABELS, ONE_BLOCK, SIZES, STAGES, keras_says, pictures, run, small

import keras_cvt
from keras_cvt import export
from keras_cvt.cli import main
from keras_cvt.export import litert, onnx, openvino

ROOMS = {"litert": litert, "onnx": onnx, "openvino": openvino}


# Of one size, ONNX and OpenVINO are the slow tests' with CvT-13.
@pytest.mark.parametrize(
    ("format", "size"),
    [("litert", "224"), ("litert", "96x160"), ("onnx", "96x160"), ("openvino", "96x160")],
)
def test_formats_from_the_command_line(folder, photos, tmp_path, capsys, format, size):
    path = tmp_path / f"small{export.FORMATS[format].suffix}"
    any_size = ["--any-size"] if size == "96x160" else []
    assert run(folder, format, path, "--image-size", size, *any_size) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    answer = ROOMS[format].load(path)
    for asked in (SIZES[size], (80, 112)) if any_size else (SIZES[size],):
        images = pictures(photos, asked)
        if format == "litert":  # takes one image
            answers = np.concatenate([answer(image[np.newaxis]) for image in images])
        else:
            answers = answer(images)
        np.testing.assert_allclose(answers, keras_says(images), atol=1e-5)
    assert not list(tmp_path.glob(".*"))


def test_exact_gelu_in_onnx(photos, tmp_path):
    model = small((64, 64), activation="gelu")
    exported = export.to_onnx(model, tmp_path / "gelu.onnx", labels=LABELS)
    assert exported.difference < 1e-5
    assert exported.bytes == (tmp_path / "gelu.onnx").stat().st_size


# ---- wrong use


def test_what_differs_is_removed(tmp_path):
    model = small((32, 32), ONE_BLOCK)
    with pytest.raises(export.ExportError, match="more than the tolerance 1.0e-12"):
        export.to_saved_model(model, tmp_path / "a", labels=LABELS, tolerance=1e-12)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "name", "more", "message"),
    (
        ("tflite", "a.tflite", (), "`format`.*litert"),
        ("onnx", "a.pb", (), "ends in .onnx"),
        ("onnx", "no/a.onnx", (), "There is no folder"),
        ("onnx", "there.onnx", (), "there.onnx exists"),
        ("openvino", "there.xml", (), "there.bin exists"),
        ("savedmodel", "there.onnx", (), "is a file"),
        ("savedmodel", "a", ("--version", "0"), "at least 1"),
        ("onnx", "a.onnx", ("--version", "1"), "`version` is for the format 'savedmodel'"),
        ("onnx", "a.onnx", ("--quantize", "float16"), "`quantize` is for the format 'litert'"),
        ("onnx", "a.onnx", ("--batch-size", "2"), "`batch_size` is for the format 'litert'"),
        ("litert", "a.tflite", ("--quantize", "int9"), "Did you mean 'int8'"),
        ("litert", "a.tflite", ("--quantize", "int8"), "`calibration`, a folder"),
        ("litert", "a.tflite", ("--calibration", "empty"), "nothing else"),
        ("litert", "a.tflite", ("--quantize=int8", "--calibration=empty"), "the folder is empty"),
        ("litert", "a.tflite", ("--quantize=int8", "--calibration=no"), "There is no folder no"),
        ("litert", "a.tflite", ("--tolerance", "0"), "above 0"),
        ("litert", "a.tflite", ("--batch-size", "0"), "at least 1"),
    ),
)
def test_wrong_use_fails_before_the_model_is_loaded(
    tmp_path, monkeypatch, capsys, format, name, more, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for there in ("there.onnx", "there.bin"):
        (tmp_path / there).write_text("")
    arguments = ["--model", "none.keras", "--format", format, "--output", name]
    assert main(["export", *arguments, *more]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_missing_runtimes_and_backends_are_named(tmp_path, monkeypatch):
    find = export.importlib.util.find_spec
    monkeypatch.setattr(
        export.importlib.util, "find_spec", lambda n: None if n == "tf2onnx" else find(n)
    )
    with pytest.raises(export.ExportError, match=r"tf2onnx.*pip install 'keras_cvt\[export\]'"):
        export.check("onnx", tmp_path / "a.onnx")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(export.ExportError, match="KERAS_BACKEND=tensorflow"):
        export.check("litert", tmp_path / "a.tflite")


def test_wrong_models(tmp_path):
    def wrong(model, message, **options):
        with pytest.raises(ValueError, match=message):
            export.to_onnx(model, tmp_path / "a.onnx", **options)

    model = small((32, 32))
    wrong(model, "5 outputs, but there are no class names")
    wrong(model, "5 outputs, but there are 2 class names", labels=["a", "b"])
    wrong(model, "a number for each of the 3 channels", labels=LABELS, mean=[0.5], std=[0.5])
    wrong(model, "`std` must be above 0", labels=LABELS, mean=[0] * 3, std=[1, 1, 0])
    wrong(model, "crop must be", labels=LABELS, crop=2)
    wrong(model, "image_size must be", labels=LABELS, image_size=0)
    wrong(keras_cvt.CvT(STAGES, include_top=False), "include_top=True")
    wrong(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), "made by keras_cvt")
    model.get_layer("head").quantize("int8")
    wrong(model, "Keras has quantized", labels=LABELS)
    assert not list(tmp_path.iterdir())


def test_keras_cvt_needs_no_tensorflow():
    code = "import sys, keras_cvt.cli; print([m for m in sys.modules if m == 'keras_cvt.export.graph'])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# ---- Keras' own quantization


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("mode", ("int8", "int4"))
def test_keras_quantization_is_kept(tmp_path, photos, mode):
    if mode == "int4" and keras.version().startswith("3.10."):
        pytest.skip("int4 came with Keras 3.11")
    images = pictures(photos, (32, 32))
    model = small((32, 32), ONE_BLOCK)
    expected = model(images, training=False).numpy()
    model.quantize(mode)
    answers = model(images, training=False).numpy()
    assert 0 < np.abs(answers - expected).max() < (0.05 if mode == "int8" else 0.3)
    for _ in range(2):  # what was loaded can be saved again
        model.save(tmp_path / "quantized.keras")
        model = keras.saving.load_model(tmp_path / "quantized.keras")
        np.testing.assert_array_equal(model(images, training=False).numpy(), answers)
    assert model.get_layer("stage0_blocks_0").mlp.fc1.quantization_mode == mode


# ---- CvT-13


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "size"),
    [("savedmodel", "224"), ("litert", "192x256"), ("onnx", "224"), ("openvino", "192x256")],
)
def test_cvt13(folder, tmp_path, capsys, format, size):
    weights = folder / "cvt13.weights.h5"
    if not weights.exists():
        keras.utils.set_random_seed(0)
        keras_cvt.CvT13(weights=None).save_weights(weights)
    path = tmp_path / f"cvt13{export.FORMATS[format].suffix}"
    arguments = ["--model", "cvt13", "--weights", weights, "--image-size", size]
    arguments += ["--format", format, "--output", path]
    assert main(["export", *map(str, arguments)]) == 0
    difference = float(re.search(r"by (\S+) of the largest", capsys.readouterr().out)[1])
    assert difference < 1e-4
