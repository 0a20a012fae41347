"""What holds for every model that `CvT()` builds. Runs on all backends of Keras."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from backend import BACKEND, gradients, numpy
from small_models import CLASSES, MODELS, SIZE, build, images

import keras_cvt
from keras_cvt import complexity
from keras_cvt.architecture import as_stages
from keras_cvt.layers import CvTBlock
from keras_cvt.structure import stage_configs

# Other backends have the most different ones: JAX compiles every operation for every shape.
DIFFERENT = ("CvT13", "linear", "kernels", "one stage", "token")
NAMES = MODELS if BACKEND == "tensorflow" else DIFFERENT


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return build(**MODELS[name])


@pytest.fixture(scope="module")
def x(model):
    return images(channels=model.input_shape[-1])


@pytest.fixture(scope="module")
def expected(model, x):
    return answer(model, x)


@pytest.fixture(scope="module")
def deployed(model):
    return keras_cvt.deploy(model)


def answer(model, x):
    return keras.tree.map_structure(numpy, model(x))


def maps_of(name):
    """(height, width, channels) after each stage."""
    size, found = SIZE, []
    for stage in as_stages(MODELS[name]["stages"]):
        size = [
            (s + 2 * stage.patch_padding - stage.patch_size) // stage.patch_stride + 1 for s in size
        ]
        found.append((*size, stage.embed_dim))
    return found


def configs(model):
    """Those of the layers, as they are saved."""
    return [json.loads(json.dumps(layer.get_config())) for layer in model.layers]


def assert_same(found, expected, tolerance=0):
    for ours, theirs in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_output(name, model, x, expected):
    """The shape that was announced; `predict` answers as a call does, within 1e-5."""
    options = MODELS[name]
    shape = (CLASSES,) if options.get("include_top", True) else maps_of(name)[-1]
    shape = shape[-1:] if options.get("pooling") else shape
    assert expected.shape == (2, *shape)
    assert model.output_shape[-1] == shape[-1]
    assert model.compute_output_shape(x.shape) == (2, *shape)
    assert np.isfinite(expected).all() and expected.std() > 1e-3
    assert_same(model.predict(x, verbose=0), expected, 1e-5)


def test_stages_are_read_from_the_layers(name, model):
    found = stage_configs(model)
    for stage, asked in zip(found, as_stages(MODELS[name]["stages"]), strict=True):
        if asked.position_embedding is True:
            asked = dataclasses.replace(asked, position_embedding=stage.position_embedding)
            assert stage.position_embedding in [size[:2] for size in maps_of(name)]
        if asked.projection == "linear":  # what it does not use is not kept
            stage, asked = (
                dataclasses.replace(
                    s, kernel_qkv=3, stride_q=1, padding_q=1, stride_kv=1, padding_kv=1
                )
                for s in (stage, asked)
            )
        assert stage == asked


def test_counted_as_built(model):
    result = complexity(model, (*SIZE, model.input_shape[-1]))
    assert result.parameters == sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert result.parameters + result.statistics == model.count_params()
    assert 0 < result.computed <= result.multiply_adds


def test_saved_and_cloned(model, x, expected, tmp_path):
    """Bit for bit; with the same config, names and flags."""
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    for other in (keras.saving.load_model(tmp_path / "model.keras"), clone):
        assert_same(answer(other, x), expected)
        assert configs(other) == configs(model)
        assert [w.path for w in other.weights] == [w.path for w in model.weights]
        assert [w.trainable for w in other.weights] == [w.trainable for w in model.weights]


def test_pyramid(name, model, x):
    pyramid = keras_cvt.feature_pyramid(model)
    levels = answer(pyramid, x)
    assert [tuple(level.shape[1:]) for level in levels.values()] == maps_of(name)
    assert {id(w) for w in pyramid.weights} <= {id(w) for w in model.weights}


def test_deployed(model, deployed, x, expected, tmp_path):
    """The same function within 1e-4, of the same structure, and it is saved like any model."""
    assert (deployed.input_shape, deployed.output_shape) == (model.input_shape, model.output_shape)
    assert [layer.name for layer in deployed.layers] == [layer.name for layer in model.layers]
    assert_same(answer(deployed, x), expected, 1e-4)
    deployed.save(tmp_path / "deployed.keras")
    loaded = keras.saving.load_model(tmp_path / "deployed.keras")
    assert_same(answer(loaded, x), answer(deployed, x))


def test_every_weight_has_a_gradient(name, model, x):
    def loss(model, x):
        output = model(x, training=True)
        target = np.random.default_rng(2).normal(size=output.shape).astype("float32")
        return keras.ops.sum(keras.ops.multiply(output, target))

    before = model.get_weights()
    _, grads = gradients(loss, model, x)
    model.set_weights(before)  # the statistics as they were
    assert len(grads) == len(model.trainable_weights)
    stages = as_stages(MODELS[name]["stages"])
    last = f"stage{len(stages) - 1}_blocks_{stages[-1].depth - 1}"
    for path, grad in grads.items():
        # Of the last block, the queries' convolution reaches the map alone.
        if not path.startswith(f"{last}/attn/conv_proj_q"):
            assert grad is not None, path
        # The softmax does not see what all keys have in common.
        if not path.startswith(f"{last}/attn/conv_proj_q") and "proj_k/b" not in path:
            assert np.abs(grad).max() > 0, path


def test_mixed_precision(name):
    """A classifier answers in float32, anything else in the policy's dtype; weights are float32."""
    options = MODELS[name]
    model = build(**options, dtype="mixed_bfloat16")
    output = model(images(channels=model.input_shape[-1]))
    assert keras.backend.standardize_dtype(output.dtype) == (
        "float32" if options.get("include_top", True) else "bfloat16"
    )
    assert np.isfinite(numpy(keras.ops.cast(output, "float32"))).all()
    assert {w.dtype for w in model.weights} == {"float32"}
    block = next(layer for layer in model.layers if isinstance(layer, CvTBlock))
    assert block.mlp.fc1.compute_dtype == "bfloat16"
