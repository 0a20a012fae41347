"""Exports with own heads and preprocessing are verified against the model as it was given."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from backend import numpy
from export_cases import LABELS, small

import keras_cvt
from keras_cvt import export
from keras_cvt.export import classifier as classifiers
from keras_cvt.export import litert, onnx, openvino, saved_model
from keras_cvt.export.verify import PICTURE

ROOMS = {"savedmodel": saved_model, "litert": litert, "onnx": onnx, "openvino": openvino}
SIZE = (48, 48)


def softmax_behind():
    model = small(SIZE, classifier_activation=None)
    return keras.Model(model.input, keras.layers.Activation("softmax")(model.output))


def own_pixels():
    """Nested, with preprocessing of its own, and several labels at once."""
    inputs = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = small(SIZE, include_top=False, pooling="token")(x)
    return keras.Model(inputs, keras.layers.Dense(5, "sigmoid", name="several")(x))


def convolutional():
    backbone = small(SIZE, include_top=False)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(5, 1)(backbone.output))
    return keras.Model(backbone.input, keras.layers.Softmax()(x))


def picture(pixels):
    image = keras_cvt.load_image(PICTURE, SIZE).astype("float32")[np.newaxis]
    return image if pixels else keras_cvt.preprocess_input(image)


@pytest.mark.parametrize(
    ("make", "format"),
    [
        *((own_pixels, format) for format in ROOMS),
        (softmax_behind, "litert"),
        (convolutional, "savedmodel"),
    ],
)
def test_files_answer_as_the_given_model(make, format, tmp_path):
    model, pixels = make(), make is own_pixels
    path = tmp_path / f"m{export.FORMATS[format].suffix}"
    exported = export.export(model, format, path, labels=LABELS)
    expected = numpy(model(picture(pixels), training=False))
    answer = ROOMS[format].load(exported.path)
    np.testing.assert_allclose(answer(picture(pixels)), expected, atol=1e-5)
    if format != "savedmodel":
        return
    served = saved_model.signatures(exported.path)
    assert ("features" in served) == (make is not convolutional)
    found = served["serve_bytes"](bytes=np.array([PICTURE.read_bytes()]))["probabilities"].numpy()
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.max())


def test_pixels_in_the_metadata(tmp_path):
    exported = classifiers.classifier(own_pixels(), LABELS)
    assert exported.preprocessing.mean == (0, 0, 0)
    np.testing.assert_array_equal(exported.load(PICTURE, SIZE), picture(pixels=True))
    stated = classifiers.classifier(own_pixels(), LABELS, mean=[0.5] * 3, std=[0.5] * 3)
    assert stated.preprocessing.mean == (0.5, 0.5, 0.5)  # what is asked goes before


@pytest.mark.parametrize("what", ["probabilities", "features"])
def test_the_proof_finds_what_was_changed_on_the_way(what, monkeypatch, tmp_path):
    """Whatever goes wrong between the given model and the file, here a second softmax or a wrong fold,
    is found: the file is compared with the model as it was given."""
    prepare = classifiers.prepare

    def changed(model, logits):
        prepared = prepare(model, logits)
        outputs = dict(prepared.output)
        function = (
            keras.layers.Softmax() if what == "probabilities" else keras.layers.Rescaling(1.1)
        )
        return keras.Model(prepared.input, {**outputs, what: function(outputs[what])})

    monkeypatch.setattr(classifiers, "prepare", changed)
    with pytest.raises(export.ExportError, match="differs from Keras"):
        export.to_saved_model(softmax_behind(), tmp_path / "m", labels=LABELS)
    assert not any(tmp_path.iterdir())


def test_nested_models_at_other_sizes(tmp_path):
    model = own_pixels()
    exported = export.to_litert(model, tmp_path / "m.tflite", labels=LABELS, image_size=(64, 96))
    x = keras_cvt.load_image(PICTURE, (64, 96)).astype("float32")[np.newaxis]
    same = keras.Model(
        any_size := keras.Input((None, None, 3)),
        keras.layers.Dense(5, "sigmoid")(
            small((None, None), include_top=False, pooling="token")(
                keras.layers.Rescaling(1 / 127.5, offset=-1)(any_size)
            )
        ),
    )
    same.set_weights(model.get_weights())
    answers = litert.load(exported.path)(x)
    np.testing.assert_allclose(answers, numpy(same(x, training=False)), atol=1e-5)
    backbone = small(SIZE, include_top=False)
    flat = keras.layers.Dense(5)(keras.layers.Flatten()(backbone.output))
    with pytest.raises(export.ExportError, match="cannot be used for images of 64x64 pixels"):
        export.to_onnx(
            keras.Model(backbone.input, flat), tmp_path / "f.onnx", labels=LABELS, image_size=64
        )


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda x: x / 2, "ends in .*divide"),
        (keras.layers.Activation("tanh", name="odd"), r"ends in odd \(tanh\)"),
    ],
)
def test_what_is_no_probability_is_not_exported_as_one(end, said, tmp_path):
    model = small(SIZE, classifier_activation=None)
    model = keras.Model(model.input, end(model.output))
    with pytest.raises(export.ExportError, match=said):
        export.to_onnx(model, tmp_path / "m.onnx", labels=LABELS)


def test_litert_has_float32_alone(tmp_path):
    model = small(SIZE, dtype="mixed_bfloat16")
    message = "layers of this model in bfloat16. Make the model with dtype=.float32."
    with pytest.raises(export.ExportError, match=message):
        export.to_litert(model, tmp_path / "m.tflite", labels=LABELS)
