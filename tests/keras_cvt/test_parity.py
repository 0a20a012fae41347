"""Our models compute what the official code computes (keras_cvt/models.py against tests/reference).

The same file runs on all backends of Keras, so that they agree with each other as well.
"""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
import reference_models
from programs import CHECKOUT

import keras_cvt

TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=reference_models.NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name, tmp_path_factory):
    return reference_models.model(name, tmp_path_factory.mktemp("weights"))


def difference(ours, official):
    ours = keras.ops.convert_to_numpy(ours)
    assert ours.shape == official.shape
    return np.abs(ours - official).max()


@pytest.mark.parametrize("size", reference_models.SIZES)
def test_logits(model, name, size):
    logits = model(reference_models.images(size))
    official = reference_models.outputs(name)[f"{size}_logits"]
    assert official.std() > 0.1  # the comparison means something
    assert difference(logits, official) < TOLERANCE


@pytest.mark.parametrize("size", reference_models.SIZES)
def test_maps_of_all_stages(model, name, size):
    maps = keras_cvt.feature_pyramid(model)(reference_models.images(size))
    official = reference_models.outputs(name)
    assert list(maps) == ["P2", "P3", "P4"]
    for i, level in enumerate(maps.values()):
        assert difference(level, official[f"{size}_stage{i + 1}"]) < TOLERANCE


@pytest.mark.parametrize("size", reference_models.SIZES)
def test_class_token(model, name, size):
    official = reference_models.outputs(name).get(f"{size}_cls_token")
    if official is None:
        assert name == "tiny-no-cls"
        return
    token = keras.Model(model.input, model.get_layer("class_token").output)
    ours = token(reference_models.images(size))
    assert difference(ours, official[:, 0]) < TOLERANCE


def test_exact_gelu_is_what_hugging_face_answers(tmp_path):
    model = reference_models.model("tiny", tmp_path, activation="gelu")
    logits = keras.ops.convert_to_numpy(model(reference_models.images("square")))
    official = reference_models.outputs("tiny")
    assert difference(logits, official["square_logits_gelu"]) < TOLERANCE
    assert difference(logits, official["square_logits"]) > 10 * TOLERANCE


def test_compiled_with_fixed_size(tmp_path):
    """The same through `predict`, which compiles the model (with XLA on JAX)."""
    model = reference_models.model("tiny", tmp_path, input_shape=(64, 64, 3))
    logits = model.predict(reference_models.images("square"), verbose=0)
    assert difference(logits, reference_models.outputs("tiny")["square_logits"]) < TOLERANCE


def test_copies_are_the_reference():
    """The copies in the repository are complete; checked where the originals are at hand."""
    default = CHECKOUT.parent / "shared" / "reference"
    originals = Path(os.environ.get("KERAS_CVT_REFERENCE", default))
    if not originals.is_dir():
        pytest.skip("the originals are not here; set KERAS_CVT_REFERENCE to their folder")
    for name in reference_models.NAMES:
        weights = reference_models.state_dict(name)
        with keras_cvt.checkpoints.read(originals / name / "official.pth") as original:
            assert sorted(original) == sorted(weights)
            for key in original:
                np.testing.assert_array_equal(weights[key], original[key])
        io = np.load(originals / name / "io.npz")
        for size in reference_models.SIZES:
            np.testing.assert_array_equal(reference_models.images(size), io[f"{size}_images"])
        outputs = reference_models.outputs(name)
        assert set(io) == set(outputs) | {f"{size}_images" for size in reference_models.SIZES}
        for key, value in outputs.items():
            np.testing.assert_array_equal(value, io[key])
