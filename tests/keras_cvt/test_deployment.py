"""Deployed models compute what the trained ones compute (keras_cvt/deployment.py)."""

import keras
import numpy as np
import pytest
import reference_models
from backend import BACKEND, floats
from small_models import build, images

import keras_cvt
from keras_cvt import StageConfig
from keras_cvt._backend import xla_on_host

TOLERANCE = 1e-4
TINY = (
    StageConfig(8, 1, 1, patch_size=7, patch_stride=4, patch_padding=2),
    StageConfig(12, 2, 3, drop_rate=0.1, attention_drop_rate=0.1),
    StageConfig(16, 2, 2, class_token=True, drop_path_rate=0.3, drop_rate=0.1),
)


def trained(stages=TINY, **options):
    return build(stages, **{"classifier_activation": None, **options})


def assert_same_function(model, deployed, x):
    expected, found = model(x, training=False), deployed(x)
    assert keras.tree.map_structure(lambda y: tuple(y.shape), expected) == (
        keras.tree.map_structure(lambda y: tuple(y.shape), found)
    )
    for ours, theirs in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        assert floats(theirs).std() > 1e-3  # the comparison means something
        np.testing.assert_allclose(floats(ours), floats(theirs), atol=TOLERANCE)


# --- the official code's outputs ----------------------------------------------------------------


@pytest.fixture(scope="module", params=reference_models.NAMES)
def reference(request, tmp_path_factory):
    """(name, original, deployed, deployed pyramid)"""
    model = reference_models.model(request.param, tmp_path_factory.mktemp("weights"))
    deployed = keras_cvt.deploy(model)
    return request.param, model, deployed, keras_cvt.feature_pyramid(deployed)


@pytest.mark.parametrize("size", reference_models.SIZES)
def test_logits_and_maps_are_the_official_ones(reference, size):
    name, _, deployed, pyramid = reference
    official = reference_models.outputs(name)
    x = reference_models.images(size)
    np.testing.assert_allclose(floats(deployed(x)), official[f"{size}_logits"], atol=TOLERANCE)
    maps = pyramid(x)
    assert list(maps) == ["P2", "P3", "P4"]
    for i, level in enumerate(maps.values()):
        np.testing.assert_allclose(floats(level), official[f"{size}_stage{i + 1}"], atol=TOLERANCE)


def test_no_training_structure_is_left(reference):
    _, model, deployed, _ = reference
    paths = [w.path for w in deployed.weights]
    assert not any("/bn/" in path or "/norm2/" in path for path in paths)
    assert not deployed.trainable_weights
    assert deployed.count_params() < model.count_params()


def test_the_trained_model_is_untouched(reference):
    name, model, _, _ = reference
    official = reference_models.outputs(name)["square_logits"]
    x = reference_models.images("square")
    np.testing.assert_allclose(floats(model(x)), official, atol=TOLERANCE)
    assert any("/bn/" in w.path for w in model.weights)
    assert model.trainable and model.trainable_weights


# --- other models than those of test_model_contract.py ------------------------------------------


def test_layers_in_front_and_behind():
    inputs = keras.Input((48, 48, 1))
    x = keras.layers.Concatenate()([keras.layers.Rescaling(2.0)(inputs)] * 3)
    model = trained(input_tensor=x, input_shape=None)
    outputs = keras.layers.Dense(3, name="more")(model.output)
    model = keras.Model(inputs, [outputs, model.get_layer("stage1").output])
    assert_same_function(model, keras_cvt.deploy(model), images(48, 48, 1))


def test_an_adapted_normalization_stays_adapted():
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 48, 48, 3)).astype("float32")
    normalization = keras.layers.Normalization()
    normalization.adapt(pixels)
    inputs = keras.Input((48, 48, 3))
    model = keras.Model(inputs, trained()(normalization(inputs)))
    assert_same_function(model, keras_cvt.deploy(model), pixels)


def test_augmentation_is_left_out():
    """Without `training=False`, as in an exported function, it would change the images."""
    inputs = keras.Input((48, 48, 3))
    names = ("RandomFlip", "RandomContrast", "GaussianDropout", "GaussianNoise", "AlphaDropout")
    augmentation = keras.Sequential(
        [
            *(getattr(keras.layers, name)(*([0.5] * (name != "RandomFlip"))) for name in names),
            keras.layers.RandomCrop(40, 40),  # the center of it
        ]
    )
    model = keras.Model(inputs, trained()(augmentation(inputs)))
    deployed, x = keras_cvt.deploy(model), images(48, 48)
    expected = floats(model(x, training=False))
    np.testing.assert_allclose(floats(deployed(x, training=False)), expected, atol=TOLERANCE)
    kinds = [type(layer).__name__ for layer in deployed.layers[1].layers]
    assert kinds == ["Dropout"] * len(names) + ["RandomCrop"]


def test_pyramids_are_deployed_too():
    model = keras_cvt.feature_pyramid(trained())
    assert_same_function(model, keras_cvt.deploy(model), images(40, 72))


def test_deploying_twice_gives_an_equal_model():
    model = trained()
    once = keras_cvt.deploy(model)
    twice = keras_cvt.deploy(once)
    assert not {id(w) for w in once.weights} & {id(w) for w in twice.weights}
    np.testing.assert_array_equal(floats(once(images(40, 56))), floats(twice(images(40, 56))))


def test_extreme_weights():
    """Statistics and scales as far from 1 as training may drive them."""
    model = trained()
    for weight in model.weights:
        if weight.path.endswith("conv_proj_k/bn/moving_variance"):
            weight.assign(np.zeros(weight.shape))  # a dead channel: epsilon alone is left
        elif weight.path.endswith("conv_proj_k/bn/gamma"):
            weight.assign(np.full(weight.shape, 1e-3))
        elif weight.path.endswith("conv_proj_v/bn/moving_variance"):
            weight.assign(np.full(weight.shape, 1e8))
        elif "norm" in weight.path and weight.path.endswith("gamma"):
            values = floats(weight)
            values[::2], values[1] = 0, 30
            weight.assign(values)
    assert_same_function(model, keras_cvt.deploy(model), images(48, 48))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16", "float64"])
def test_dtype_policies(policy):
    """About as far from the float32 function as the trained model in that policy."""
    model = trained(dtype=policy)
    exact = trained()
    for ours, theirs in zip(exact.weights, model.weights, strict=True):
        if "seed" not in ours.path:
            ours.assign(floats(theirs))
    deployed = keras_cvt.deploy(model)
    block = deployed.get_layer("stage1_blocks_0")
    compute_dtype = keras.dtype_policies.get(policy).compute_dtype
    assert {w.dtype for w in block.weights} == {block.compute_dtype} == {compute_dtype}
    x = images(48, 80)
    found, expected = deployed(x), model(x, training=False)
    assert keras.backend.standardize_dtype(found.dtype) == (
        keras.backend.standardize_dtype(expected.dtype)
    )
    exact = floats(exact(x))
    allowed = np.abs(floats(expected) - exact).max()
    assert np.abs(floats(found) - exact).max() < 3 * allowed + TOLERANCE


# --- saving and exporting -----------------------------------------------------------------------


def test_a_loaded_model_is_deployed(tmp_path):
    model = trained()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_same_function(model, keras_cvt.deploy(loaded), images(48, 80))


def test_predict():
    """Compiled by the backend: with XLA on JAX. The model can be used as before."""
    model = trained()
    deployed = keras_cvt.deploy(model)
    for size in ((48, 80), (33, 57)):
        found = deployed.predict(images(*size), verbose=0)
        np.testing.assert_allclose(found, floats(model(images(*size))), atol=TOLERANCE)
        found = model.predict(images(*size), verbose=0)
        np.testing.assert_allclose(found, floats(deployed(images(*size))), atol=TOLERANCE)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="SavedModels and tf.function")
def test_savedmodel_and_xla(tmp_path):
    import tensorflow as tf

    model = trained(TINY[2:])  # XLA takes its time for each block
    deployed = keras_cvt.deploy(model)
    deployed.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    compiled = tf.function(lambda x: deployed(x), jit_compile=xla_on_host())  # for each size anew
    for function, size in (
        (exported.serve, (48, 80)),
        (exported.serve, (33, 57)),
        (compiled, (33, 57)),
    ):
        expected = floats(model(images(*size)))
        np.testing.assert_allclose(floats(function(images(*size))), expected, atol=TOLERANCE)


# --- what can't be deployed ---------------------------------------------------------------------


def test_another_model():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="made by keras_cvt"):
        keras_cvt.deploy(other)


def test_lora_and_quantized_weights():
    model = trained()
    model.get_layer("stage1_blocks_0").mlp.fc1.enable_lora(2)
    with pytest.raises(ValueError, match=r"stage1_blocks_0 has weights .*lora_kernel_a.*without"):
        keras_cvt.deploy(model)
    model = trained()
    model.get_layer("stage1_blocks_0").attn.proj_q.quantize("int8")
    with pytest.raises(ValueError, match="stage1_blocks_0 is quantized.*before it"):
        keras_cvt.deploy(model)
