"""A SavedModel for TensorFlow Serving, whose signatures can be used without this library.

    NAME/1/saved_model.pb, variables/                 the function and the weights
    NAME/1/assets/labels.txt                          a class name on each line
    NAME/1/assets.extra/tf_serving_warmup_requests    one request for each signature

Signatures (batches of any size):

    serving_default   images: float32, preprocessed -> probabilities
    features          images: float32, preprocessed -> features
    serve_images      images: uint8, of any one size -> probabilities, top_classes, top_scores
    serve_bytes       bytes: JPEG or PNG files -> the same and valid

A file that can't be decoded does not fail its request: `valid` is false for it, its probabilities and
scores are NaN, its classes empty.

Pictures are decoded, resized, cropped and normalized by TensorFlow as `load_image` does it with Pillow:
decoded bits are equal (but for grey PNG of 16 bits, by one grey level); after resizing, one value in a
thousand differs, by one grey level. (With Pillow 13, one in seven for pictures twice as high as wide,
by one or two.)
Two things of `load_image` are left out: a JPEG's EXIF orientation, and the conversion of pictures that
are neither JPEG nor PNG.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cvt.export import graph
from keras_cvt.export.common import PICTURE, Classifier, ExportError, Run, difference

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
    pixels = tf.TensorSpec((None, None, None, len(model.mean)), tf.uint8, name="images")
    files = tf.TensorSpec((None,), tf.string, name="bytes")

    def forward(images):
        return model.model(images, training=False)

    def serve_images(images):
        images = _normalized(model, _resized(model, images))
        return _ranked(model, forward(images)["probabilities"])

    def serve_bytes(bytes):
        pictures, valid = _decoded(model, bytes)
        probabilities = forward(_normalized(model, pictures))["probabilities"]
        answers = _ranked(model, tf.where(valid[:, tf.newaxis], probabilities, np.nan))
        names = tf.where(valid[:, tf.newaxis], answers["top_classes"], "")
        return {**answers, "top_classes": names, "valid": valid}

    def features(images):
        return {"features": forward(images)["features"]}

    return {
        "serving_default": graph.forward(model),
        **{
            name: tf.function(function, input_signature=[spec], autograph=False)
            for name, function, spec in (
                ("features", features, images),
                ("serve_images", serve_images, pixels),
                ("serve_bytes", serve_bytes, files),
            )
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
    return (pixels / 255 - tf.constant(model.mean)) / tf.constant(model.std)


def _decoded(model: Classifier, files: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pictures float32 (batch, *image_size, channels), and which of them could be read."""
    height, width = model.image_size
    shape = (height, width, len(model.mean))

    def read(index, data):
        picture = tf.cond(tf.io.is_jpeg(data), lambda: _jpeg(data), lambda: _png(data))
        if shape[-1] == 1:
            # Pillow's weights, in integers.
            parts = tf.cast(picture, tf.int32) * tf.constant([19595, 38470, 7471])
            grey = (tf.reduce_sum(parts, axis=-1, keepdims=True) + 0x8000) // 0x10000
            picture = tf.cast(grey, tf.uint8)
        return index, _resized(model, picture[tf.newaxis])[0]

    # Graphs have no `except`. A data set has: it leaves out elements that fail. What is left is told
    # by its index.
    count = tf.size(files, out_type=tf.int64)
    pictures = tf.data.Dataset.from_tensor_slices(files).enumerate()
    pictures = pictures.map(read, num_parallel_calls=4, deterministic=True).ignore_errors()
    options = (
        tf.data.Options()
    )  # tuning and rewriting a pipeline takes longer than running this one
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    pictures = pictures.batch(tf.maximum(count, 1)).with_options(options)
    nothing = (tf.zeros([0], tf.int64), tf.zeros([0, *shape]))
    index, pixels = pictures.reduce(nothing, lambda _, batch: batch)
    index = index[:, tf.newaxis]
    valid = tf.scatter_nd(index, tf.ones(tf.shape(index)[:1], tf.bool), [count])
    return tf.scatter_nd(index, pixels, tf.stack([count, *shape])), valid


def _jpeg(data: tf.Tensor) -> tf.Tensor:
    # Pillow's way: exact arithmetic.
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _png(data: tf.Tensor) -> tf.Tensor:
    """What is transparent is laid on white."""
    picture = tf.cast(tf.io.decode_png(data, channels=4), tf.int32)
    alpha = picture[..., 3:]
    # TensorFlow gives opaque greys of fewer than 8 bits the alpha 1, 3 or 15.
    bits, kind = (tf.io.decode_raw(tf.strings.substr(data, at, 1), tf.uint8)[0] for at in (24, 25))
    bits = tf.cast(bits, tf.int32)
    opaque = (kind == 0) & (bits < 8) & (tf.reduce_max(alpha) == 2**bits - 1)
    alpha = tf.where(opaque, 255, alpha)
    return tf.cast((picture[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255, tf.uint8)


def _resized(model: Classifier, pictures: tf.Tensor) -> tf.Tensor:
    """Resizes and crops pictures of one size as `load_image` does: float32, whole numbers 0 to 255.

    Only what the crop keeps is computed, so that a long and narrow picture needs no more memory than
    others. As Pillow, it goes first over the width and then over the height, and rounds after each.
    (Pillow 13 begins with the height where a picture is twice as high as wide, or gets wider, lower.)
    """
    (height, width), crop = model.image_size, model.crop
    given_height, given_width = tf.unstack(tf.shape(pictures, tf.int64)[1:3])
    full_height, full_width = (
        tf.constant(side if crop is None else int(side / crop), tf.int64)
        for side in model.image_size
    )
    if crop is not None:
        full_height, full_width = tf.cond(
            full_height * given_width > full_width * given_height,
            lambda: (full_height, full_height * given_width // given_height),
            lambda: (full_width * given_height // given_width, full_width),
        )
    pictures = tf.cast(pictures, tf.float32)
    pictures = _resample(pictures, given_width, full_width, width, axis=1)
    return _resample(pictures, given_height, full_height, height, axis=0)


def _resample(
    pictures: tf.Tensor, given: tf.Tensor, full: tf.Tensor, kept: int, axis: int
) -> tf.Tensor:
    """Along one axis, 0 or 1: scales `given` pixels to `full`, of which only the middle is `kept`."""
    # torchvision's CenterCrop: a half is rounded to the even neighbour, as tf.round does it.
    start = tf.cast(tf.round(tf.cast(full - kept, tf.float64) / 2), tf.float32)
    size = tf.unstack(tf.shape(pictures)[1:3])
    scale, move = [tf.constant(1.0)] * 2, [tf.constant(0.0)] * 2
    size[axis] = tf.constant(kept)
    scale[axis], move[axis] = tf.cast(full, tf.float32) / tf.cast(given, tf.float32), -start
    pictures = tf.raw_ops.ScaleAndTranslate(
        images=pictures,
        size=tf.stack(size),
        scale=tf.stack(scale),
        translation=tf.stack(move),
        kernel_type="keyscubic",
        antialias=True,
    )
    return tf.clip_by_value(tf.floor(pictures + 0.5), 0, 255)  # Pillow rounds a half up


def _write_warmup(model: Classifier, path: Path) -> None:
    """One real request for each signature, which TensorFlow Serving answers before any client's."""
    images, file = model.load(PICTURE), PICTURE.read_bytes()
    pixels = tf.io.decode_jpeg(file, channels=len(model.mean)).numpy()
    requests = {
        "serving_default": ("images", images),
        "features": ("images", images),
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


def prove_pictures(model: Classifier, path: Path) -> None:
    """Asks `serve_bytes` and `features` about a real picture.

    Raises:
        ExportError: if they differ from what Keras says of `load_image`.
    """
    picture = model.load(PICTURE)
    expected = model.model(picture, training=False)
    files = tf.constant([PICTURE.read_bytes()])
    served = signatures(path)
    for name, output, inputs in (
        ("features", "features", {"images": tf.constant(picture)}),
        ("serve_bytes", "probabilities", {"bytes": files}),
    ):
        answers = served[name](**inputs)[output].numpy()
        found = difference(answers, np.asarray(expected[output]))
        if not found <= PIXEL_TOLERANCE:
            raise ExportError(
                f"The exported signature {name} differs from Keras by {found:.1e} of the largest "
                "value. It was removed."
            )
