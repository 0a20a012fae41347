"""A SavedModel for TensorFlow Serving, whose signatures can be used without this library.

    NAME/1/saved_model.pb, variables/                 the function and the weights
    NAME/1/assets/labels.txt                          a class name on each line
    NAME/1/assets.extra/tf_serving_warmup_requests    one request for each signature

Signatures (batches of any size):

    serving_default   images: float32, preprocessed -> probabilities
    features          images: float32, preprocessed -> features, where a Dense gives the answers
    serve_images      images: uint8, of any one size -> probabilities, top_classes, top_scores
    serve_bytes       bytes: JPEG or PNG files -> the same and valid

A file that can't be decoded does not fail its request: `valid` is false for it, its probabilities and
scores are NaN, its classes empty. That includes pictures that TensorFlow's operations would decode to
other colors than Pillow, such as GIF and WebP: see docs/pictures.md.

Pictures are decoded, turned upright, laid on white, resized, cropped and normalized as `load_image`
does it with Pillow: `keras_cvt.images.graph_decode` and `keras_cvt.images.graph` say how closely.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cvt.export import graph
from keras_cvt.export.classifier import Classifier
from keras_cvt.export.formats import ExportError
from keras_cvt.export.verify import PICTURE, Run, difference
from keras_cvt.images import graph as pictures
from keras_cvt.images.graph_decode import decode, to_gray

TOP = 5

# Pictures may differ by one grey level in places; far more is what another crop or colour makes.
PIXEL_TOLERANCE = 0.02


def write(model: Classifier, path: Path) -> None:
    """Writes a SavedModel, warm-up requests included."""
    module = tf.Module()
    module.variables_ = graph.variables(model)
    labels = path.with_name("labels.txt")
    labels.write_text("".join(f"{label}\n" for label in model.labels), encoding="utf-8")
    module.labels = tf.saved_model.Asset(str(labels))
    with tf.device("CPU"):  # what decodes and resizes has no other place
        signatures = _signatures(model)
    module.signatures_ = signatures
    tf.saved_model.save(module, str(path), signatures=signatures)
    labels.unlink()
    _write_warmup(model, path)


def _signatures(model: Classifier) -> dict[str, tf.types.experimental.GenericFunction]:
    images = tf.TensorSpec(model.input_shape, tf.float32, name="images")
    pixels = tf.TensorSpec(
        (None, None, None, model.preprocessing.channels), tf.uint8, name="images"
    )
    files = tf.TensorSpec((None,), tf.string, name="bytes")

    def forward(images):
        return model.model(images, training=False)

    def serve_images(images):
        images = _normalized(model, pictures.resize_and_crop(images, model.preprocessing))
        return _ranked(model, forward(images)["probabilities"])

    def serve_bytes(bytes):
        pixels, valid = _decoded(model, bytes)
        probabilities = forward(_normalized(model, pixels))["probabilities"]
        answers = _ranked(model, tf.where(valid[:, tf.newaxis], probabilities, np.nan))
        names = tf.where(valid[:, tf.newaxis], answers["top_classes"], "")
        return {**answers, "top_classes": names, "valid": valid}

    def features(images):
        return {"features": forward(images)["features"]}

    functions = {
        "serve_images": (serve_images, pixels),
        "serve_bytes": (serve_bytes, files),
    }
    if model.has_features:
        functions["features"] = (features, images)
    return {
        "serving_default": graph.forward(model),
        **{
            name: tf.function(function, input_signature=[spec], autograph=False)
            for name, (function, spec) in functions.items()
        },
    }


def _ranked(model: Classifier, probabilities: tf.Tensor) -> dict[str, tf.Tensor]:
    scores, classes = tf.math.top_k(probabilities, min(TOP, len(model.labels)))
    return {
        "probabilities": probabilities,
        "top_classes": tf.gather(tf.constant(model.labels), classes),
        "top_scores": scores,
    }


def _normalized(model: Classifier, pixels: tf.Tensor) -> tf.Tensor:
    return pictures.normalize(pixels, model.mean, model.std)


def _decoded(model: Classifier, files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pictures uint8 (batch, *image_size, channels), and which of them could be read."""
    shape = model.preprocessing.input_shape

    def read(index, data):
        picture = decode(data, model.preprocessing.background)
        if model.preprocessing.channels == 1:
            picture = to_gray(picture)
        return index, pictures.resize_and_crop(picture[tf.newaxis], model.preprocessing)[0]

    # A graph cannot catch errors, but a data set can leave out the elements that fail. The index
    # tells which are left.
    count = tf.size(files, out_type=tf.int64)
    read_files = tf.data.Dataset.from_tensor_slices(files).enumerate()
    read_files = read_files.map(read, num_parallel_calls=4, deterministic=True).ignore_errors()
    # Tuning and rewriting a pipeline takes longer than running this one.
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    batches = read_files.batch(tf.maximum(count, 1)).with_options(options)
    nothing = (tf.zeros([0], tf.int64), tf.zeros([0, *shape], tf.uint8))
    index, pixels = batches.reduce(nothing, lambda _, batch: batch)
    index = index[:, tf.newaxis]
    valid = tf.scatter_nd(index, tf.ones(tf.shape(index)[:1], tf.bool), [count])
    return tf.scatter_nd(index, pixels, tf.stack([count, *shape])), valid


def _write_warmup(model: Classifier, path: Path) -> None:
    """One real request for each signature, which TensorFlow Serving answers before any client's."""
    images, file = model.load(PICTURE), PICTURE.read_bytes()
    pixels = tf.io.decode_jpeg(file, channels=model.preprocessing.channels).numpy()
    requests = {
        "serving_default": ("images", images),
        **({"features": ("images", images)} if model.has_features else {}),
        "serve_images": ("images", pixels[np.newaxis]),
        "serve_bytes": ("bytes", [file]),
    }
    extra = path / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for signature, (name, value) in requests.items():
            file.write(_prediction_log(model.model.name, signature, name, value))


def _prediction_log(model: str, signature: str, name: str, value: Any) -> bytes:
    """The message tensorflow.serving.PredictionLog of a predict request, in protobuf's encoding.

    Five fields are not worth a dependency on all of TensorFlow Serving's messages.
    """
    tensor = tf.make_tensor_proto(value).SerializeToString()
    entry = _field(1, name.encode()) + _field(2, tensor)  # of the map of inputs
    spec = _field(1, model.encode()) + _field(3, signature.encode())
    request = _field(1, spec) + _field(2, entry)
    return _field(6, _field(1, request))  # predict_log, request


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf that has a length: its key, the length and the content."""
    length, size = bytearray(), len(content)
    while size > 127:
        length.append(size % 128 + 128)
        size //= 128
    return bytes([number << 3 | 2, *length, size]) + content


def load(path: Path) -> Run:
    """Answers with the signature `serving_default`."""
    serve = signatures(path)["serving_default"]
    return lambda images: serve(images=tf.constant(images))["probabilities"].numpy()


def signatures(path: Path) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """A SavedModel's signatures by name, which need no Keras."""
    loaded = tf.saved_model.load(str(path))
    loaded_signatures = dict(loaded.signatures)
    for function in loaded_signatures.values():
        function.owner = loaded  # the variables live as long as this
    return loaded_signatures


def verify_pictures(model: Classifier, path: Path) -> None:
    """Asks `serve_bytes` and `features` about a real picture.

    Raises:
        ExportError: if they differ from what Keras says of `load_image`.
    """
    picture = model.load(PICTURE)
    files = tf.constant([PICTURE.read_bytes()])
    served = signatures(path)
    pairs = {
        "serve_bytes": (
            served["serve_bytes"](bytes=files)["probabilities"],
            model.probabilities(picture),
        )
    }
    if model.has_features:
        answers = served["features"](images=tf.constant(picture))["features"]
        pairs["features"] = (answers, model.features(picture))
    for name, (answers, expected) in pairs.items():
        found = difference(answers.numpy(), expected)
        if not found <= max(PIXEL_TOLERANCE, model.rounding):
            raise ExportError(
                f"The exported signature {name} differs from Keras by {found:.1e} of the largest "
                "value. It was removed."
            )
