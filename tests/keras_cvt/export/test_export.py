"""Export: every file is run by its own runtime, and answers as Keras does (keras_cvt/export)."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from programs import CHECKOUT
from sklearn.datasets import load_sample_images

import keras_cvt
from colab import loopback
from keras_cvt import export
from keras_cvt.cli import main
from keras_cvt.export import litert, onnx, openvino, outputs, saved_model
from keras_cvt.export.classifier import classifier
from training.demo import answer_without_keras

LABELS = ("china", "flower", "bird", "müll", "cat")
SIZES = {"224": (224, 224), "96x160": (96, 160)}
STAGES = (
    keras_cvt.StageConfig(16, depth=1, num_heads=1, patch_size=7, patch_stride=4, patch_padding=2),
    keras_cvt.StageConfig(32, depth=2, num_heads=2, class_token=True),
)


def small(size=(224, 224), stages=STAGES, **options) -> keras.Model:
    """A small classifier with random weights, whose answers differ from image to image."""
    keras.utils.set_random_seed(1)
    model = keras_cvt.CvT(stages, classes=len(LABELS), input_shape=(*size, 3), **options)
    for variable in model.trainable_variables:
        if variable.path.endswith("kernel"):
            variable.assign(variable * 4)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The small model as a file, its labels, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("export")
    small().save(folder / "small.keras")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    photos = folder / "photos"
    photos.mkdir()
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(photo).save(photos / f"{name}.jpg", quality=95)
        for i in range(0, 240, 24):  # other parts, to calibrate by
            Image.fromarray(photo[i : i + 180, i : i + 180]).save(photos / f"{name}{i}.png")
    return folder


@pytest.fixture(scope="module")
def photos(folder):
    return [folder / "photos" / f"{name}.jpg" for name in ("china", "flower")]


@pytest.fixture(scope="module")
def square(folder, photos):
    """A photo that is only cropped, not resized, for 224 pixels: what is served is Keras' to 1e-5."""
    path = folder / "square.png"
    Image.open(photos[1]).resize((256, 256)).save(path)
    return path


def run(folder, format, output, *more) -> int:
    arguments = ["export", "--model", folder / "small.keras", "--labels", folder / "labels.txt"]
    return main([str(x) for x in [*arguments, "--format", format, "--output", output, *more]])


def pictures(photos, size):
    return np.stack(
        [keras_cvt.preprocess_input(keras_cvt.load_image(photo, size)) for photo in photos]
    )


def keras_says(images):
    model = small(images.shape[1:3])
    return keras.ops.convert_to_numpy(model(images, training=False))


# ---- SavedModel


@pytest.fixture(scope="module")
def served(folder):
    """Version 1 for 224, version 2 for a rectangle and any other size."""
    for size, more in zip(SIZES, ([], ["--any-size"]), strict=True):
        assert run(folder, "savedmodel", folder / "small", "--image-size", size, *more) == 0
    return folder / "small"


@pytest.fixture(scope="module")
def signatures(served):
    """Those of version 1."""
    return saved_model.signatures(served / "1")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """tests/support/run_saved_model.c, compiled against the installed TensorFlow."""
    library = Path(tf.sysconfig.get_lib())
    path = tmp_path_factory.mktemp("c") / "run_saved_model"
    subprocess.run(
        [
            os.environ.get("CC", "cc"),
            CHECKOUT / "tests" / "support" / "run_saved_model.c",
            f"-I{tf.sysconfig.get_include()}",
            f"-L{library}",
            "-l:libtensorflow_cc.so.2",
            "-l:libtensorflow_framework.so.2",
            f"-Wl,-rpath,{library}",
            "-o",
            path,
        ],
        check=True,
    )
    return path


def tensors(path, signature):
    """(inputs, outputs) of a signature: the graph's tensors by name, as a server looks them up."""
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    definition = message.meta_graphs[0].signature_def[signature]
    return tuple(
        {name: tensor.name for name, tensor in side.items()}
        for side in (definition.inputs, definition.outputs)
    )


@pytest.mark.parametrize("version", (1, 2))
def test_the_c_api_answers_as_keras(served, program, photos, tmp_path, version):
    size = list(SIZES.values())[version - 1]
    images = pictures(photos, size)
    expected = keras_says(images)
    assert np.abs(expected[0] - expected[1]).max() > 0.05  # else rows could be mixed up unseen
    path = served / str(version)
    images.tofile(tmp_path / "images")
    broken = tmp_path / "broken"
    broken.write_bytes(photos[0].read_bytes()[:-5000])

    def c_api(signature, shape, files, rows):
        inputs, outputs = tensors(path, signature)
        (given,) = inputs.values()
        command = [
            program,
            path,
            given,
            shape,
            outputs["probabilities"],
            rows * len(LABELS),
            *files,
        ]
        out = subprocess.run(map(str, command), check=True, capture_output=True, text=True).stdout
        return np.array(out.split(), np.float32).reshape(rows, len(LABELS))

    shape = ",".join(map(str, images.shape))
    answers = c_api("serving_default", shape, [tmp_path / "images"], 2)
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    answers = c_api("serve_bytes", "bytes", [photos[0], broken, photos[1]], 3)
    np.testing.assert_allclose(answers[[0, 2]], expected, atol=5e-3)
    assert np.isnan(answers[1]).all()


def test_a_process_without_keras_answers_as_keras(served, photos):
    images = pictures(photos, (80, 112))  # a size other than the one it was exported with
    answers = answer_without_keras(served / "2", images)
    np.testing.assert_allclose(answers, keras_says(images), atol=1e-5)


def test_files_and_pixels(signatures, photos):
    expected = keras_says(pictures(photos, SIZES["224"]))
    images = [np.asarray(Image.open(photo)) for photo in photos]
    assert images[0].shape == images[1].shape
    by_pixels = signatures["serve_images"](images=tf.constant(np.stack(images)))
    contents = [photo.read_bytes() for photo in photos]
    by_bytes = signatures["serve_bytes"](bytes=tf.constant(contents))
    for answers in (by_pixels, by_bytes):
        np.testing.assert_allclose(answers["probabilities"], expected, atol=5e-3)
        order = np.argsort(-answers["probabilities"].numpy())
        names = [[name.decode() for name in row] for row in answers["top_classes"].numpy()]
        assert names == [[LABELS[i] for i in row] for row in order]
        np.testing.assert_array_equal(
            answers["top_scores"], np.take_along_axis(answers["probabilities"].numpy(), order, 1)
        )
    assert by_bytes["valid"].numpy().all()
    features = signatures["features"](images=tf.constant(pictures(photos, 224)))
    assert features["features"].shape == (2, 32)


def test_broken_files_do_not_fail_their_batch(signatures, photos, tmp_path):
    good = photos[1].read_bytes()
    Image.new("RGB", (1, 40_000)).save(tmp_path / "thin.png")
    files = [b"", good, b"no image", good[:-3000], (tmp_path / "thin.png").read_bytes(), good]
    serve = signatures["serve_bytes"]
    answers = {name: value.numpy() for name, value in serve(bytes=tf.constant(files)).items()}
    np.testing.assert_array_equal(answers["valid"], [False, True, False, False, True, True])
    alone = serve(bytes=tf.constant([good]))
    np.testing.assert_allclose(answers["probabilities"][1], alone["probabilities"][0], atol=1e-6)
    np.testing.assert_allclose(answers["probabilities"][5], alone["probabilities"][0], atol=1e-6)
    for row in (0, 2, 3):
        assert np.isnan(answers["probabilities"][row]).all()
        assert np.isnan(answers["top_scores"][row]).all()
        assert set(answers["top_classes"][row]) == {b""}
    only = serve(bytes=tf.constant([b"no image"]))
    assert not only["valid"].numpy().any()


@pytest.mark.parametrize("crop", (0.875, None))
@pytest.mark.parametrize("size", ((224, 224), (96, 160)))
def test_pictures_are_read_as_by_load_image(tmp_path, crop, size):
    model = classifier(small(size), LABELS, crop=crop)
    photo = Image.fromarray(load_sample_images().images[0]).resize((501, 333))
    transparent = photo.convert("RGBA")
    transparent.putalpha(photo.convert("L"))
    kinds = {
        "a.jpg": photo,
        "b.png": photo,
        "grey.jpg": photo.convert("L"),
        "transparent.png": transparent,
        "palette.png": photo.quantize(32),
        "two colours.png": photo.convert("1"),
        "narrow.png": photo.crop((0, 0, 60, 333)),
        "cmyk.jpg": photo.convert("CMYK"),
    }
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
    files = tf.constant([(tmp_path / name).read_bytes() for name in kinds])
    read, valid = saved_model._decoded(model, files)
    assert valid.numpy().all()
    for name, pixels in zip(kinds, read.numpy(), strict=True):
        expected = keras_cvt.load_image(tmp_path / name, size, crop).astype(np.float32)
        difference = np.abs(pixels - expected)
        # CMYK has no defined colours: libjpeg's and Pillow's are a little different. For what is very
        # narrow, Pillow 13 rounds in another order.
        most, share = {"cmyk.jpg": (8, 1), "narrow.png": (2, 0.2)}.get(name, (1, 0.002))
        assert difference.max() <= most and (difference > 0).mean() <= share, name


def readme(kind):
    """The example in README that begins with this comment."""
    blocks = re.findall(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(), re.DOTALL)
    (example,) = [block for block in blocks if block.startswith(f"# {kind}")]
    return example


def run_example(kind, replaced, photo):
    code = readme(kind)
    for old, new in {**replaced, "cat.jpg": str(photo), "cvt13": "small"}.items():
        assert old in code
        code = code.replace(old, new)
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_grpc_client_of_the_readme(served, square):
    with loopback.serve("small", served / "1") as address:
        said = run_example("grpc client", {"localhost:8500": address}, square)
    check_example(dict(eval(said)), square)


def test_rest_client_of_the_readme(signatures, square):
    """A server that reads and writes JSON as TensorFlow Serving's REST reference describes it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/models/small:predict"
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            files = [base64.b64decode(row["b64"]) for row in request["instances"]]
            answers = signatures[request["signature_name"]](bytes=tf.constant(files))
            rows = [
                {name: value.numpy()[i].tolist() for name, value in answers.items()}
                for i in range(len(files))
            ]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"predictions": rows}, default=bytes.decode).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"127.0.0.1:{server.server_port}"
        said = run_example("rest client", {"localhost:8501": address}, square)
    finally:
        server.shutdown()
        server.server_close()
    valid, _, scores = said.partition(" ")
    assert valid == "True"
    check_example(eval(scores), square)


def check_example(scores, photo):
    (expected,) = keras_says(pictures([photo], (224, 224)))
    assert list(scores) == [LABELS[i] for i in np.argsort(-expected)]
    np.testing.assert_allclose([scores[name] for name in LABELS], expected, atol=1e-5)


def test_warm_up_requests_can_be_answered(served, signatures):
    from tensorflow_serving.apis import prediction_log_pb2

    file = served / "1" / "assets.extra" / "tf_serving_warmup_requests"
    seen = set()
    for record in tf.data.TFRecordDataset(str(file)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        assert request.model_spec.name == "cvt"
        name = request.model_spec.signature_name
        inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
        for value in signatures[name](**inputs).values():
            assert value.shape[0] == 1 and not (value.dtype == tf.float32 and np.isnan(value).any())
        seen.add(name)
    assert seen == {"serving_default", "features", "serve_images", "serve_bytes"}
    assert (served / "1/assets/labels.txt").read_text(encoding="utf-8").split() == list(LABELS)


def test_versions_are_never_replaced(served, folder, capsys):
    assert outputs.next_version(served) == 3
    before = (served / "2" / "saved_model.pb").stat().st_mtime_ns
    assert run(folder, "savedmodel", served, "--version", 2) == 2
    assert "exists" in capsys.readouterr().err
    assert (served / "2" / "saved_model.pb").stat().st_mtime_ns == before
    assert {path.name for path in served.iterdir()} == {"1", "2"}


# ---- LiteRT, ONNX, OpenVINO


ROOMS = {"litert": litert, "onnx": onnx, "openvino": openvino}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("format", ROOMS)
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


@pytest.mark.parametrize("quantize", ("float16", "dynamic", "int8"))
def test_quantized_litert(folder, photos, tmp_path, quantize):
    path = tmp_path / "small.tflite"
    more = ["--calibration", folder / "photos"] if quantize == "int8" else []
    size = SIZES["96x160"]
    options = ["--image-size", "96x160", "--quantize", quantize, *more]
    assert run(folder, "litert", path, *options) == 0
    images = pictures(photos, size)
    answers = np.concatenate([litert.load(path)(image[np.newaxis]) for image in images])
    expected = keras_says(images)
    assert 1e-7 < np.abs(answers - expected).max() < (0.002 if quantize == "float16" else 0.05)
    assert (answers.argmax(-1) == expected.argmax(-1)).all()

    weights = {types[1] for name, types in operations(path) if name in litert.INT8_OPERATIONS}
    assert ("INT8" in weights) == (quantize != "float16")
    if quantize == "int8":
        # What the linear maps read is int8, what a norm reads is float.
        kinds = {operation: inputs[0] for operation, inputs in operations(path)}
        assert {kinds[name] for name in litert.INT8_OPERATIONS} == {"INT8"}
        assert {kinds[name] for name in ("RSQRT", "SQUARED_DIFFERENCE", "SOFTMAX")} == {"FLOAT32"}


def operations(path):
    """(name, types of its inputs) of each operation of a .tflite file."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    codes, types = (
        {number: name for name, number in vars(kind).items() if not name.startswith("_")}
        for kind in (schema.BuiltinOperator, schema.TensorType)
    )
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(path.read_bytes()))
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = codes[model.operatorCodes[operator.opcodeIndex].builtinCode]
            yield code, [types[graph.tensors[i].type] for i in operator.inputs if i >= 0]


def test_litert_metadata(folder, tmp_path):
    """The labels are a zip archive within the file. Of the rest only what it must contain is checked:
    tflite-support 0.4.4, whose schema was seen to read it, can't be installed beside this protobuf."""
    path = tmp_path / "small.tflite"
    model = keras_cvt.with_class_names(small((64, 96)), LABELS)
    export.to_litert(model, path, mean=(0.5, 0.5, 0.25), std=(0.5, 0.5, 1))
    with zipfile.ZipFile(path) as file:
        assert file.read("labels.txt").decode().split() == list(LABELS)
    data = path.read_bytes()
    start = data.index(b"M001") - 4  # the message's identifier comes after its root's offset
    assert np.array([127.5, 127.5, 63.75], "<f4").tobytes() in data[start:]
    assert np.array([127.5, 127.5, 255.0], "<f4").tobytes() in data[start:]
    assert b"labels.txt" in data[start:]


def test_other_programs_read_litert(photos, tmp_path):
    """OpenVINO tells tensors apart by their names, and the schema says where weights may begin."""
    from ai_edge_litert import schema_py_generated as schema
    from openvino import Core

    path = export.to_litert(small((64, 96)), tmp_path / "small.tflite", labels=LABELS).path
    images = pictures(photos[:1], (64, 96))
    compiled = Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled([images])[0], keras_says(images), atol=1e-5)
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    buffers = [model.Buffers(i)._tab for i in range(model.BuffersLength())]
    starts = [table.Vector(table.Offset(4)) for table in buffers if table.Offset(4)]
    assert len(starts) > 20 and not any(start % 16 for start in starts)


def test_litert_names_what_it_has_not_built_in(tmp_path):
    model = small((32, 32), activation=keras.ops.erfinv)
    with pytest.raises(export.ExportError, match="not built in: Erfinv"):
        export.to_litert(model, tmp_path / "a.tflite", labels=LABELS)
    assert not list(tmp_path.iterdir())


def test_exact_gelu_in_onnx(photos, tmp_path):
    model = small((64, 64), activation="gelu")
    exported = export.to_onnx(model, tmp_path / "gelu.onnx", labels=LABELS)
    assert exported.difference < 1e-5
    assert exported.bytes == (tmp_path / "gelu.onnx").stat().st_size


def test_grey_logits_model(tmp_path):
    """One channel, its own normalization, and an end in logits, to which a softmax is added."""
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(STAGES, classes=3, input_shape=(32, 32, 1), classifier_activation=None)
    options = {"labels": list("abc"), "mean": [0.5], "std": [0.5], "crop": None}
    path = export.to_saved_model(model, tmp_path / "grey", **options).path
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), "uint8")
    expected = keras.ops.softmax(model(pixels.astype("float32") / 127.5 - 1)).numpy()
    serve = saved_model.signatures(path)["serve_images"]
    np.testing.assert_allclose(
        serve(images=tf.constant(pixels))["probabilities"], expected, atol=1e-5
    )


# ---- wrong use


def test_what_differs_is_removed(folder, tmp_path, capsys):
    options = ["--image-size", "32", "--tolerance", "1e-12"]
    assert run(folder, "savedmodel", tmp_path / "a", *options) == 2
    assert "more than the tolerance 1.0e-12" in capsys.readouterr().err
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
        ("litert", "a.tflite", ("--quantize=int8", "--calibration=empty"), "no image in empty"),
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
    images = pictures(photos, (32, 32))
    # Keras takes seconds for each block.
    model = small((32, 32), [dataclasses.replace(STAGES[1], depth=1)])
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
