"""SavedModels answer as Keras does: in C, in a server and without Keras (export.saved_model)."""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from export_cases import LABELS, ONE_BLOCK, SIZES, keras_says, pictures, run, small
from picture_files import exif
from PIL import Image
from programs import CHECKOUT
from sklearn.datasets import load_sample_images

import keras_cvt
from colab import loopback
from keras_cvt import export
from keras_cvt.export import outputs, saved_model
from keras_cvt.export.classifier import classifier
from training.demo import answer_without_keras


@pytest.fixture(scope="module")
def square(folder, photos):
    """A photo that is only cropped, not resized, for 224 pixels: what is served is Keras' to 1e-5."""
    path = folder / "square.png"
    Image.open(photos[1]).resize((256, 256)).save(path)
    return path


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
    source = CHECKOUT / "tests" / "support" / "run_saved_model.c"
    folder, library = tmp_path_factory.mktemp("c"), "libtensorflow_cc.so.2"
    # A gigabyte, of which linkers read much. So what is linked has its name and nothing but the
    # functions' names; when the program starts, the real one takes its place.
    names = sorted(set(re.findall(r"\bTF_\w+(?=\()", source.read_text())))
    (folder / "names.c").write_text("".join(f"void {name}(void) {{}}\n" for name in names))
    compile = [os.environ.get("CC", "cc"), "-o"]
    shared = ["-shared", "-fPIC", f"-Wl,-soname,{library}", folder / "names.c"]
    subprocess.run([*compile, folder / library, *shared], check=True)
    options = [
        f"-I{tf.sysconfig.get_include()}",
        f"-L{folder}",
        f"-l:{library}",
        f"-Wl,-rpath,{tf.sysconfig.get_lib()}",
    ]
    subprocess.run([*compile, folder / "run_saved_model", source, *options], check=True)
    return folder / "run_saved_model"


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
    answers = np.concatenate([*answer_without_keras(served / "2", [images, images[:1]])])
    np.testing.assert_allclose(answers[:-1], keras_says(images), atol=1e-5)
    np.testing.assert_allclose(answers[-1], answers[0], atol=1e-5)


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
    Image.open(photos[1]).save(tmp_path / "colors.gif")  # TensorFlow would lose its transparency
    files = [b"", good, b"no image", good[:-3000], (tmp_path / "thin.png").read_bytes(), good]
    files.append((tmp_path / "colors.gif").read_bytes())
    serve = signatures["serve_bytes"]
    answers = {name: value.numpy() for name, value in serve(bytes=tf.constant(files)).items()}
    np.testing.assert_array_equal(answers["valid"], [False, True, False, False, True, True, False])
    alone = serve(bytes=tf.constant([good]))
    np.testing.assert_allclose(answers["probabilities"][1], alone["probabilities"][0], atol=1e-6)
    np.testing.assert_allclose(answers["probabilities"][5], alone["probabilities"][0], atol=1e-6)
    for row in (0, 2, 3, 6):
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
        "few colors.png": photo.quantize(4),
        "two colours.png": photo.convert("1"),
        "narrow.png": photo.crop((0, 0, 60, 333)),
        "cmyk.jpg": photo.convert("CMYK"),
    }
    for name, picture in kinds.items():
        picture.save(tmp_path / name)
    kinds["lying.jpg"] = photo
    photo.save(tmp_path / "lying.jpg", exif=exif(6))
    files = tf.constant([(tmp_path / name).read_bytes() for name in kinds])
    read, valid = saved_model._decoded(model, files)
    assert valid.numpy().all()
    for name, pixels in zip(kinds, read.numpy(), strict=True):
        expected = keras_cvt.load_image(tmp_path / name, size, crop).astype(np.float32)
        difference = np.abs(pixels - expected)
        # Of four inks, TensorFlow and Pillow round the colors in other places.
        most, share = (2, 1) if name == "cmyk.jpg" else (1, 0.002)
        assert difference.max() <= most and (difference > 0).mean() <= share, name


def documented(kind):
    """The example in docs/export/savedmodel.md that begins with this comment."""
    page = CHECKOUT / "docs/export/savedmodel.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (example,) = [block for block in blocks if block.startswith(f"# {kind}")]
    return example


def run_example(kind, replaced, photo):
    code = documented(kind)
    for old, new in {**replaced, "cat.jpg": str(photo), "cvt13": "small"}.items():
        assert old in code
        code = code.replace(old, new)
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_grpc_client_of_the_docs(served, square):
    with loopback.serve("small", served / "1") as address:
        said = run_example("grpc client", {"localhost:8500": address}, square)
    check_example(dict(eval(said)), square)


def test_rest_client_of_the_docs(signatures, square):
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


def test_grey_logits_model(tmp_path):
    """One channel, its own normalization, and an end in logits, to which a softmax is added."""
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(ONE_BLOCK, classes=3, input_shape=(32, 32, 1), classifier_activation=None)
    options = {"labels": list("abc"), "mean": [0.5], "std": [0.5], "crop": None}
    path = export.to_saved_model(model, tmp_path / "grey", **options).path
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), "uint8")
    expected = keras.ops.softmax(model(pixels.astype("float32") / 127.5 - 1)).numpy()
    serve = saved_model.signatures(path)["serve_images"]
    np.testing.assert_allclose(
        serve(images=tf.constant(pixels))["probabilities"], expected, atol=1e-5
    )
