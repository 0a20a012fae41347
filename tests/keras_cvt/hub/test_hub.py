"""CvT in KerasHub: backbone, classifier and preprocessing. Runs on TensorFlow and JAX."""

from __future__ import annotations

import json

import keras
import keras_hub
import numpy as np
import pytest
from backend import BACKEND, numpy
from small_models import MODELS, SIZE, TINY, build, images, tiny

import keras_cvt
from keras_cvt import hub
from keras_cvt.architecture import VARIANTS

L = keras.layers


def classifier(num_classes=5, image_size=(32, 32), stages=TINY, **options):
    keras.utils.set_random_seed(0)
    converter = hub.CvTImageConverter(image_size)
    return hub.CvTImageClassifier(
        hub.CvTBackbone(stages),
        num_classes,
        preprocessor=hub.CvTImageClassifierPreprocessor(converter),
        **options,
    )


def pixels(height, width, batch=2):
    shape = (batch, height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


# --- the backbone --------------------------------------------------------------------------------


def check_backbone(stages, image_shape, **options):
    """A backbone with a model's weights gives its maps, and what its classifier reads."""
    size = [side or 64 for side in image_shape[:2]]
    x = images(*size, batch=1)
    model = keras_cvt.CvT(stages, classes=3, input_shape=image_shape, **options)
    backbone = hub.CvTBackbone(stages, image_shape=image_shape, **options)
    assert backbone.count_params() == model.count_params() - model.get_layer("head").count_params()
    backbone.set_weights(model.get_weights()[:-2])
    expected = keras_cvt.feature_pyramid(model)(x, training=False)
    pyramid = keras.Model(backbone.input, backbone.pyramid_outputs)
    assert list(backbone.pyramid_outputs) == list(expected)
    for level, found in pyramid(x, training=False).items():
        np.testing.assert_allclose(numpy(found), numpy(expected[level]), atol=1e-5)
    features = keras.Model(model.input, model.get_layer("head").input)(x, training=False)
    found = keras.Model(backbone.input, backbone.features)(x, training=False)
    np.testing.assert_allclose(numpy(found), numpy(features), atol=1e-5)
    assert tuple(backbone(x, training=False).shape) == tuple(list(expected.values())[-1].shape)


@pytest.mark.parametrize(
    "variant",
    ["CvT13", "CvT21", pytest.param("CvTW24", marks=pytest.mark.slow)],
)
def test_the_function_and_weights_are_those_of_each_variant(variant):
    check_backbone(VARIANTS[variant], (None, None, 3))


@pytest.mark.parametrize(
    "name", ["position embeddings", "linear", "searched", "no class token", "one stage"]
)
def test_the_function_and_weights_are_those_of_other_configurations(name):
    options = {"input_shape": (None, None, 3), **MODELS[name]}
    check_backbone(options.pop("stages"), options.pop("input_shape"), **options)


def test_the_config_of_a_backbone():
    backbone = hub.CvTBackbone("cvt13", image_shape=(64, 96, 3), activation="gelu", name="mine")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(backbone)))
    twin = keras.saving.deserialize_keras_object(config)
    assert type(twin) is hub.CvTBackbone
    assert twin.get_config() == backbone.get_config()
    assert twin.stages == tuple(VARIANTS["CvT13"])
    assert twin.input_shape == (None, 64, 96, 3)


def test_any_image_size_and_mixed_precision():
    backbone = hub.CvTBackbone(TINY, dtype="mixed_bfloat16")
    for size in ((64, 64), (40, 88)):
        maps = keras.Model(backbone.input, backbone.pyramid_outputs)(images(*size))
        assert [tuple(m.shape[1:3]) for m in maps.values()] == [
            tuple(-(-side // stride) for side in size) for stride in (4, 8, 16)
        ]
        assert {keras.backend.standardize_dtype(m.dtype) for m in maps.values()} == {"bfloat16"}


# --- preprocessing -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(224, 224), (400, 300)])
def test_the_converter_makes_what_load_image_makes(photos, size):
    converter = hub.CvTImageConverter(size)
    for photo in photos:
        expected = keras_cvt.preprocess_input(keras_cvt.load_image(photo, size))
        for found in (converter(photo), converter(photo[np.newaxis])[0], converter([photo])[0]):
            # A gray level is 0.0175, and in few places.
            assert np.abs(found - expected).max() < 0.02
            assert np.abs(found - expected).mean() < 1e-4
    kept = keras_cvt.load_image(photos[0], size)
    np.testing.assert_allclose(converter(kept), keras_cvt.preprocess_input(kept), atol=1e-6)


def test_the_converter_in_tf_data(photos):
    tf = pytest.importorskip("tensorflow")
    converter = hub.CvTImageConverter((96, 128))
    data = tf.data.Dataset.from_generator(
        lambda: photos, output_signature=tf.TensorSpec((None, None, 3), tf.uint8)
    )
    for photo, found in zip(photos, data.map(converter), strict=True):
        expected = keras_cvt.preprocess_input(keras_cvt.load_image(photo, (96, 128)))
        assert np.abs(found.numpy() - expected).max() < 0.02


def test_the_size_of_a_converter_can_be_set():
    converter = hub.CvTImageConverter((64, 64), crop=None)
    converter.image_size = (32, 48)
    assert converter(pixels(70, 50)).shape == (2, 32, 48, 3)
    twin = hub.CvTImageConverter.from_config(json.loads(json.dumps(converter.get_config())))
    assert twin.image_size == (32, 48)
    np.testing.assert_array_equal(twin(pixels(70, 50)), converter(pixels(70, 50)))
    several = converter([pixels(70, 50)[0], pixels(33, 44)[0]])
    assert several.shape == (2, 32, 48, 3)
    with pytest.raises(ValueError, match="images alone"):
        converter({"images": pixels(70, 50), "bounding_boxes": None})


# --- the classifier ------------------------------------------------------------------------------


def test_raw_images_in_probabilities_out():
    """`predict` answers as the model of keras_cvt does for images that load_image has read."""
    task = classifier(activation="softmax")
    model = keras_cvt.CvT(TINY, classes=5, input_shape=(32, 32, 3))
    model.set_weights(task.get_weights())
    x = pixels(80, 60)
    ready = np.stack([keras_cvt.load_image(image, 32) for image in x])
    expected = model.predict(keras_cvt.preprocess_input(ready), verbose=0)
    np.testing.assert_allclose(task.predict(x, verbose=0), expected, atol=1e-3)
    np.testing.assert_allclose(task.predict(ready, verbose=0), expected, atol=1e-6)


def test_fit_learns_from_raw_images():
    x = pixels(50, 40, batch=8) // 4
    y = np.arange(8) % 2
    x[y == 1] += 128  # dark and light
    task = classifier(num_classes=2)
    # Compiling for a few steps takes a minute with TensorFlow; JAX can't do without.
    jit = BACKEND == "jax"
    task.compile(optimizer=keras.optimizers.Adam(3e-3), jit_compile=jit)
    task.fit(x, y, epochs=8, batch_size=4, verbose=0)
    loss, accuracy = task.evaluate(x, y, verbose=0)
    assert accuracy == 1
    assert loss < 0.5


def test_a_frozen_backbone_stays_as_it_is():
    task = classifier(num_classes=2)
    task.backbone.trainable = False
    task.compile(jit_compile=BACKEND == "jax")
    before = [numpy(w).copy() for w in task.backbone.weights]
    assert len(task.trainable_weights) == 2
    task.fit(pixels(40, 40), np.array([0, 1]), verbose=0)
    for weight, kept in zip(task.backbone.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), kept)


@pytest.mark.parametrize("pooling", ["official", "avg", "max"])
def test_presets_in_a_folder(tmp_path, pooling):
    task = classifier(pooling=pooling, dropout=0.1, class_names=list("abcde"))
    x = pixels(60, 44)
    expected = task.predict(x, verbose=0)
    task.save_to_preset(tmp_path / "mine")
    for kind in (keras_hub.models.ImageClassifier, hub.CvTImageClassifier):
        loaded = kind.from_preset(str(tmp_path / "mine"))
        assert type(loaded) is hub.CvTImageClassifier
        assert loaded.class_names == tuple("abcde")
        np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
    other = keras_hub.models.ImageClassifier.from_preset(
        str(tmp_path / "mine"), num_classes=3, activation="softmax"
    )
    assert other.class_names is None
    assert other.predict(x, verbose=0).shape == (2, 3)
    for ours, theirs in zip(other.backbone.weights, task.backbone.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    backbone = keras_hub.models.Backbone.from_preset(
        str(tmp_path / "mine"), image_shape=(64, 64, 3)
    )
    assert type(backbone) is hub.CvTBackbone
    assert backbone.input_shape == (None, 64, 64, 3)
    random = keras_hub.models.Backbone.from_preset(str(tmp_path / "mine"), load_weights=False)
    assert np.abs(numpy(random.weights[0]) - numpy(backbone.weights[0])).max() > 0


def test_other_tasks_of_keras_hub_take_the_backbone():
    task = keras_hub.models.ImageClassifier(hub.CvTBackbone(TINY), num_classes=4)
    assert task.predict(images(), verbose=0).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"pooling": "token"}, "pooling"), ({"class_names": list("ab")}, "each of the 5")],
)
def test_refused(options, said):
    with pytest.raises(ValueError, match=said):
        classifier(**options)


# --- from and to keras_cvt -----------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["softmax", None, "sigmoid"])
def test_from_a_model_and_back(activation):
    model = build(TINY, input_shape=(*SIZE, 3), classifier_activation=activation, activation="gelu")
    model = keras_cvt.with_class_names(model, list("abcde"))
    task = hub.from_model(model)
    assert task.preprocessor.image_size == SIZE
    assert task.class_names == tuple("abcde")
    x = images()
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(numpy(task(x, training=False)), expected, rtol=1e-4, atol=1e-5)
    back = hub.to_model(task)
    np.testing.assert_allclose(back.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-5)
    assert keras_cvt.class_names(back) == tuple("abcde")
    raw = hub.to_model(task, include_preprocessing=True)
    x = pixels(90, 70)
    expected = task.predict(x, verbose=0)
    np.testing.assert_allclose(raw.predict(x, verbose=0), expected, rtol=1e-4, atol=1e-4)


def test_a_model_with_its_own_preprocessing_gives_it_to_the_converter():
    model = keras_cvt.CvT(TINY, classes=5, input_shape=(48, 48, 3), include_preprocessing=True)
    task = hub.from_model(model)
    assert task.preprocessor.image_size == (48, 48)
    x = pixels(90, 70)
    np.testing.assert_allclose(task.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


def test_another_normalization_is_kept_or_refused():
    task = classifier()
    task.preprocessor.image_converter = hub.CvTImageConverter(
        (32, 32), mean=[0.5] * 3, std=[0.5] * 3
    )
    with pytest.raises(ValueError, match="include_preprocessing=True"):
        hub.to_model(task)
    model = hub.to_model(task, include_preprocessing=True)
    x = pixels(64, 64)
    np.testing.assert_allclose(model.predict(x, verbose=0), task.predict(x, verbose=0), atol=1e-5)
    with pytest.raises(ValueError, match="no CvTImageConverter"):
        hub.to_model(task.backbone, include_preprocessing=True)


def own_head(backbone):
    return keras.Model(backbone.input, L.Dense(2)(L.Dense(4, "relu")(backbone.output)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: keras_cvt.deploy(keras_cvt.CvT(TINY, classes=5)), "deployed"),
        (lambda: own_head(keras_cvt.CvT(TINY, include_top=False, pooling="token")), "another head"),
        (lambda: keras_cvt.CvT(TINY, input_shape=(32, 32, 1)), "1 channels"),
        (
            lambda: keras.Sequential([keras.Input((32, 32, 3)), L.Rescaling(1 / 255), tiny()]),
            "layers before its CvT.*rescaling",
        ),
    ],
)
def test_what_is_no_classifier_of_keras_hub(make, said):
    with pytest.raises(ValueError, match=said):
        hub.from_model(make())


@pytest.mark.skipif(BACKEND == "torch", reason="runs are compared on TensorFlow and JAX")
def test_mixed_precision(tmp_path):
    task = classifier(activation="softmax")
    task.save_to_preset(tmp_path / "mine")
    mixed = hub.CvTImageClassifier.from_preset(str(tmp_path / "mine"), dtype="mixed_bfloat16")
    assert mixed.backbone.stages[0] == task.backbone.stages[0]
    assert mixed.backbone.get_layer("stage0_patch_embed").compute_dtype == "bfloat16"
    x = pixels(40, 40)
    found = mixed.predict(x, verbose=0)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, task.predict(x, verbose=0), atol=0.05)
