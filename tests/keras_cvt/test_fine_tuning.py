"""What a user does with a model, from the first step of `fit` to its use, on each backend."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from backend import floats, has_xla, numpy
from small_models import TINY, tiny

import keras_cvt
from keras_cvt import conversion

CLASSES = 3


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).normal(size=(12, 32, 32, 3)).astype("float32")


def fit(model, images, epochs):
    labels = np.arange(len(images)) % CLASSES
    return model.fit(images, labels, 4, epochs, verbose=0, shuffle=False).history["loss"]


@pytest.fixture(scope="module")
def tuned(images, tmp_path_factory):
    """The folder of half.keras, a model on its way; and the model that came of it, at its end."""
    folder = tmp_path_factory.mktemp("tuned")
    keras.utils.set_random_seed(0)
    # Keras does not save the state of random draws: without them, a loaded model can be compared.
    stages = [dataclasses.replace(TINY[-1], drop_path_rate=0.0)]  # with all kinds of weights
    model = tiny(stages, classes=CLASSES, input_shape=(32, 32, 3))
    model.compile(
        keras.optimizers.AdamW(3e-3), "sparse_categorical_crossentropy", jit_compile=has_xla()
    )
    losses = fit(model, images, 4)
    assert losses[-1] < losses[0]
    model.save(folder / "half.keras")
    fit(model, images, 1)
    return folder, model


def test_a_model_that_was_saved_goes_on_as_if_it_had_not_been(tuned, images):
    """With the optimizer's moments and the statistics."""
    folder, model = tuned
    other = keras.saving.load_model(folder / "half.keras")
    before = [np.array(numpy(weight)) for weight in other.weights]
    fit(other, images, 1)
    moved = 0
    for weight, found, was in zip(model.weights, other.weights, before, strict=True):
        moved += not np.array_equal(numpy(found), was)
        np.testing.assert_allclose(
            numpy(found), numpy(weight), rtol=1e-4, atol=1e-5, err_msg=weight.path
        )
    assert moved > 20


@pytest.mark.parametrize("file", ["tuned.keras", "tuned.weights.h5", "tuned.safetensors"])
def test_its_weights_fill_another_model(tuned, images, tmp_path, file):
    _, model = tuned
    model.save(tmp_path / "tuned.keras")
    model.save_weights(tmp_path / "tuned.weights.h5")
    conversion.convert(tmp_path / "tuned.keras", tmp_path / "tuned.safetensors")
    other = tiny(TINY[-1:], classes=CLASSES, weights=tmp_path / file)
    np.testing.assert_allclose(
        other.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-6
    )


def test_it_is_deployed_and_explained(tuned, images):
    _, model = tuned
    deployed = keras_cvt.deploy(model)
    np.testing.assert_allclose(floats(deployed(images)), floats(model(images)), atol=1e-5)
    attention = keras_cvt.attention_maps(deployed, images[:2])
    assert attention.maps.shape[:3] == (2, 2, 2)
    other = keras_cvt.attention_maps(model, images[:2])
    np.testing.assert_allclose(attention.maps, other.maps, atol=1e-5)
