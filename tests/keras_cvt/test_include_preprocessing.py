"""Models that take pixels of any size: `include_preprocessing`, and what such a model goes through."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from backend import BACKEND, numpy
from small_models import TINY, tiny

import keras_cvt
from keras_cvt import classification
from keras_cvt.inference.predict import predict_files
from keras_cvt.structure import structure_of

SIZE = (48, 64)


@pytest.fixture(scope="module")
def pair():
    """A model of normalized images, and one with the same weights that takes pixels."""
    keras.utils.set_random_seed(0)
    plain = tiny(input_shape=(*SIZE, 3))
    raw = tiny(input_shape=(*SIZE, 3), include_preprocessing=True)
    raw.set_weights(plain.get_weights())
    return plain, raw


@pytest.mark.parametrize("size", [SIZE, (224, 224), (500, 700)])
@pytest.mark.parametrize("crop", ["official", None])
def test_a_picture_becomes_what_load_image_makes_of_it(photos, size, crop):
    layer = keras_cvt.ImagePreprocessing(size, crop=crop)
    for photo in photos:
        expected = keras_cvt.load_image(photo, size, crop=crop)
        found = numpy(layer(photo[np.newaxis]))[0]
        levels = (found * keras_cvt.imagenet.STD + keras_cvt.imagenet.MEAN) * 255
        difference = np.abs(levels - expected)
        assert difference.max() < 1.01  # a gray level, where two programs round a half differently
        assert (difference > 0.5).mean() < 1e-3


def test_pixels_of_any_size_give_the_answers_of_normalized_images(pair, photos):
    plain, raw = pair
    assert raw.input_shape == (None, None, None, 3)
    for photo in photos:
        image = keras_cvt.load_image(photo, SIZE)[np.newaxis]
        expected = plain.predict(keras_cvt.preprocess_input(image), verbose=0)
        np.testing.assert_allclose(raw.predict(image, verbose=0), expected, rtol=1e-5)
        found = raw.predict(photo[np.newaxis], verbose=0)  # uint8, 427x640
        np.testing.assert_allclose(found, expected, rtol=0.01)


def test_saved_loaded_and_cloned(pair, photos, tmp_path):
    _, raw = pair
    raw.save(tmp_path / "raw.keras")
    loaded = keras.saving.load_model(tmp_path / "raw.keras")
    clone = type(raw).from_config(raw.get_config())
    clone.set_weights(raw.get_weights())
    expected = raw.predict(photos[0][np.newaxis], verbose=0)
    for other in (loaded, clone):
        found = other.predict(photos[0][np.newaxis], verbose=0)
        # A graph for one size, or for any, computes the weights of the resizing in other digits.
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Weights know nothing of it: the file fills a model without, and vice versa.
    plain = tiny(input_shape=(*SIZE, 3), weights=tmp_path / "raw.keras")
    image = keras_cvt.load_image(photos[0], SIZE)[np.newaxis]
    found = plain.predict(keras_cvt.preprocess_input(image), verbose=0)
    np.testing.assert_allclose(found, raw.predict(image, verbose=0), rtol=1e-5)


def test_fit_takes_pixels(photos):
    """Frozen weights, so that what is trained sees what is predicted."""
    keras.utils.set_random_seed(0)
    model = tiny(input_shape=(32, 32, 3), include_preprocessing=True)
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    x, y = np.stack(photos), np.array([0, 1])
    first = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=5, verbose=0)
    assert model.evaluate(x, y, verbose=0) < first


def test_files_are_normalized_once(pair, photos, tmp_path):
    """keras-cvt predict gives a model pixels where it normalizes them itself, of the model's size."""
    from PIL import Image

    plain, raw = pair
    Image.fromarray(photos[0]).save(tmp_path / "temple.png")
    names = [(str(i), f"class {i}") for i in range(5)]
    files = [str(tmp_path / "temple.png")]
    (ours,), (theirs,) = (predict_files(model, files, labels=names) for model in (raw, plain))
    assert classification.sides_of(raw) == SIZE
    assert [name for name, *_ in ours.classes] == [name for name, *_ in theirs.classes]
    for (*_, found), (*_, expected) in zip(ours.classes, theirs.classes, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_what_reads_models_keeps_it(pair, photos):
    _, raw = pair
    picture = photos[0][np.newaxis]
    expected = raw.predict(picture, verbose=0)
    deployed = keras_cvt.deploy(raw)
    np.testing.assert_allclose(deployed.predict(picture, verbose=0), expected, rtol=1e-3)
    maps = keras_cvt.feature_pyramid(raw).predict(picture, verbose=0)
    assert maps["P4"].shape == (1, SIZE[0] // 16, SIZE[1] // 16, TINY[-1].embed_dim)
    named = keras_cvt.with_class_names(raw, list("abcde"))
    np.testing.assert_allclose(named.predict(picture, verbose=0), expected, rtol=1e-5)


def test_other_sizes(pair):
    _, raw = pair
    other = classification.resized(raw, 64, 80)
    assert classification.sides_of(other) == (64, 80)
    assert structure_of(other).before[0].image_size == (64, 80)
    assert other.input_shape == (None, 64, 80, 3)
    assert classification.resized(raw, None, None) is raw
    any_size = tiny(include_preprocessing=True)
    assert classification.sides_of(any_size) == (None, None)
    x = np.random.default_rng(0).uniform(0, 255, (1, 40, 56, 3)).astype("float32")
    plain = tiny()
    plain.set_weights(any_size.get_weights())
    expected = plain.predict(keras_cvt.preprocess_input(x), verbose=0)
    np.testing.assert_allclose(any_size.predict(x, verbose=0), expected, rtol=1e-5)


def test_in_mixed_precision_pixels_are_normalized_in_float32(photos):
    policies = {"float32": [], "mixed_bfloat16": []}
    for policy, seen in policies.items():
        model = tiny(input_shape=(*SIZE, 3), include_preprocessing=True, dtype=policy)
        layer = model.get_layer("preprocessing")
        seen.append(numpy(keras.Model(model.input, layer.output)(photos[0][np.newaxis])))
        assert seen[0].dtype == "float32"
    np.testing.assert_array_equal(*(seen[0] for seen in policies.values()))


def test_before_an_input_tensor():
    inputs = keras.Input((40, 56, 3))
    model = tiny(input_tensor=inputs, input_shape=None, include_preprocessing=True)
    assert model.input_shape == (None, 40, 56, 3)
    assert classification.takes_pixels(model)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((32, 32, 1), "RGB"), ((32, None, 3), "both numbers"), ((None, 32, 3), "both numbers")],
)
def test_refused(shape, said):
    with pytest.raises(ValueError, match=said):
        tiny(input_shape=shape, include_preprocessing=True)


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="3 channels"):
        keras_cvt.ImagePreprocessing((8, 8))(np.zeros((1, 9, 9, 4), "float32"))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports are TensorFlow's")
@pytest.mark.parametrize("format", ["savedmodel", "onnx", "litert"])
def test_exported(pair, photos, tmp_path, format):
    """A file takes pixels; `serve_bytes` and `serve_images` do not normalize them twice."""
    from keras_cvt import export
    from keras_cvt.export.formats import FORMATS

    pytest.importorskip("tf2onnx")
    plain, raw = pair
    path = tmp_path / f"model{FORMATS[format].suffix}"
    exported = export.export(raw, format, path, labels=list("abcde"), any_size=True)
    assert exported.difference < 1e-4
    if format != "savedmodel":
        return
    from keras_cvt.export.saved_model import signatures

    served = signatures(exported.path)
    image = keras_cvt.load_image(photos[0], SIZE)[np.newaxis]
    expected = plain.predict(keras_cvt.preprocess_input(image), verbose=0)
    found = served["serving_default"](images=image)["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    found = served["serve_images"](images=photos[0][np.newaxis])["probabilities"]
    np.testing.assert_allclose(found, expected, rtol=0.01)
