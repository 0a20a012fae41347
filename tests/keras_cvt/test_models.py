"""Building, saving and inspecting models (keras_cvt.models, architecture, analysis.complexity)."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
from backend import BACKEND, has_xla, numpy
from small_models import TINY, images, tiny

import keras_cvt
from keras_cvt import StageConfig, models, weights
from keras_cvt.architecture import VARIANTS, variant_named
from keras_cvt.structure import stage_configs


def test_signature_is_that_of_keras_applications():
    def by_position(constructor):
        parameters = inspect.signature(constructor).parameters.values()
        return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    asked = by_position(keras.applications.ResNet50)
    theirs = inspect.signature(keras.applications.ResNet50).parameters
    for constructor in (keras_cvt.CvT13, keras_cvt.CvT21, keras_cvt.CvTW24):
        assert by_position(constructor) == asked
        ours = inspect.signature(constructor).parameters
        for name in asked:
            if name != "name":
                assert ours[name].default == theirs[name].default
        assert all(f"        {name}: " in constructor.__doc__ for name in ours)
    assert by_position(keras_cvt.CvT) == ["stages", *asked]


def test_docstrings_say_what_is_published():
    for variant, stages in VARIANTS.items():
        constructor = models.constructor(variant)
        assert constructor is getattr(keras_cvt, variant)
        for section in ("Args:", "Returns:", "Raises:", "Example:"):
            assert section in constructor.__doc__
        for row in weights.PUBLISHED:
            if row.model == variant:
                assert all(f'`"{name}"`' in constructor.__doc__ for name in row.names)
                assert f"{row.image_size} pixels" in constructor.__doc__
        assert f"the official {stages[-1].drop_path_rate}." in constructor.__doc__


@pytest.mark.parametrize("name", ["cvt13", "CvT13", "cvt-13", "CVT_13"])
def test_variants_by_name(name):
    assert variant_named(name) == "CvT13" and models.constructor(name) is keras_cvt.CvT13


def test_no_such_variant():
    with pytest.raises(ValueError, match="`model` must be .*'cvtw24'.*Did you mean 'cvt21'"):
        variant_named("cvt22")


def test_poolings_are_what_they_say():
    model = tiny(classifier_activation=None)
    x = images(48, 80)
    poolings = {
        pooling: tiny(include_top=False, pooling=pooling)
        for pooling in (None, "avg", "max", "token")
    }
    common = {w.path: numpy(w) for w in model.weights}
    for other in poolings.values():
        for weight in other.weights:
            weight.assign(common[weight.path])
    outputs = {pooling: numpy(other(x)) for pooling, other in poolings.items()}

    def norm(values):
        return numpy(model.get_layer("norm")(keras.ops.convert_to_tensor(values)))

    np.testing.assert_allclose(outputs["avg"], norm(outputs[None].mean((1, 2))), atol=1e-5)
    np.testing.assert_allclose(outputs["max"], norm(outputs[None].max((1, 2))), atol=1e-5)
    head = model.get_layer("head")
    np.testing.assert_allclose(
        numpy(head(keras.ops.convert_to_tensor(outputs["token"]))), numpy(model(x)), atol=1e-5
    )
    stage = keras.Model(poolings[None].input, poolings[None].get_layer("stage2").output)
    np.testing.assert_array_equal(numpy(stage(x)), outputs[None])


def test_classifier_activation_and_dtype():
    for policy in ("mixed_bfloat16", "mixed_float16", "float32"):
        logits = tiny(classifier_activation=None, dtype=policy)
        assert logits.output.dtype == "float32"
        assert logits.get_layer("stage2_blocks_0").attn.proj_q.compute_dtype == (
            keras.dtype_policies.get(policy).compute_dtype
        )
        assert logits.get_layer("stage1").dtype_policy.name == policy
    probabilities = numpy(tiny()(images(32, 32)))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)


def test_input_tensor():
    inputs = keras.Input((40, 40, 1))
    model = tiny(input_tensor=keras.layers.Concatenate()([inputs] * 3), input_shape=None)
    assert model.input is inputs
    assert numpy(model(images(40, 40)[..., :1])).shape == (2, 5)


def test_last_block_computes_the_class_token_only():
    assert "stage2" not in [layer.name for layer in tiny().layers]
    names = [layer.name for layer in tiny(include_top=False).layers]
    assert {"stage0", "stage1", "stage2"} <= set(names)


def test_one_model_for_images_of_any_size():
    """Compiled, of unknown height and width; each size within 1e-5 of a model of that size."""
    model = tiny()
    for size in ((48, 80), (57, 41)):
        x = images(*size)
        fixed = tiny(input_shape=(*size, 3))
        fixed.set_weights(model.get_weights())
        np.testing.assert_allclose(model.predict(x, verbose=0), numpy(fixed(x)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data, tf.function and SavedModel")
@pytest.mark.parametrize("options", [{}, {"include_top": False, "pooling": "token"}])
def test_unknown_sizes_in_graphs(options, tmp_path):
    import tensorflow as tf

    model = tiny(**options)
    spec = tf.TensorSpec((None, None, None, 3))
    x = images(48, 80)
    expected = numpy(model(x))
    for jit in sorted({False, has_xla()}):
        function = tf.function(lambda x: model(x), input_signature=[spec], jit_compile=jit)
        np.testing.assert_allclose(numpy(function(x)), expected, atol=1e-5)
    model.export(tmp_path / "exported", verbose=False)
    exported = tf.saved_model.load(tmp_path / "exported")
    for size in ((48, 80), (33, 64)):
        np.testing.assert_allclose(
            numpy(exported.serve(images(*size))), numpy(model(images(*size))), atol=1e-5
        )
    width = expected.shape[1]
    data = tf.data.Dataset.from_generator(
        lambda: ((images(s, s), np.zeros((2, width), "float32")) for s in (32, 48)),
        output_signature=(tf.TensorSpec((2, None, None, 3)), tf.TensorSpec((2, width))),
    )
    model.compile("sgd", "mse")
    model.fit(data, verbose=0)


def test_feature_pyramid(tmp_path):
    model = tiny()
    pyramid = keras_cvt.feature_pyramid(model)
    levels = pyramid(images(64, 96))
    assert {k: tuple(v.shape) for k, v in levels.items()} == {
        "P2": (2, 16, 24, 8),
        "P3": (2, 8, 12, 12),
        "P4": (2, 4, 6, 16),
    }
    assert {id(w) for w in pyramid.weights} <= {id(w) for w in model.weights}
    again = keras_cvt.feature_pyramid(model)(images(64, 96))
    pyramid.save(tmp_path / "pyramid.keras")
    loaded = keras.saving.load_model(tmp_path / "pyramid.keras")(images(64, 96))
    for level in levels:
        np.testing.assert_array_equal(numpy(levels[level]), numpy(again[level]))
        np.testing.assert_array_equal(numpy(levels[level]), numpy(loaded[level]))


def test_feature_pyramid_of_another_model():
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="made by keras_cvt"):
        keras_cvt.feature_pyramid(other)
    odd = keras_cvt.CvT([StageConfig(8, 1, 1, patch_stride=3)], include_top=False)
    with pytest.raises(ValueError, match="stride 3"):
        keras_cvt.feature_pyramid(odd)


def test_save_and_load(tmp_path):
    options = {"dtype": "mixed_bfloat16"}
    model = tiny(**options)
    for weight in model.weights:  # no statistics at their initial values
        weight.assign(numpy(weight) + np.random.default_rng(1).uniform(size=weight.shape))
    expected = numpy(keras.ops.cast(model(images(48, 80)), "float32"))
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    others = [loaded, tiny(**options), tiny(**options, weights=tmp_path / "model.weights.h5")]
    others[1].load_weights(tmp_path / "model.weights.h5")
    others.append(tiny(**options, weights=str(tmp_path / "model.keras")))
    for other in others:
        result = numpy(keras.ops.cast(other(images(48, 80)), "float32"))
        np.testing.assert_array_equal(result, expected)


def test_a_fresh_process(tmp_path):
    """It loads models without custom objects. `import keras_cvt` asks for no other backend, nor for
    what only some users need: those imports wait until they are used."""
    model = tiny(dtype="mixed_bfloat16")
    for name, saved in {"trained": model, "deployed": keras_cvt.deploy(model)}.items():
        saved.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", numpy(saved(images(48, 80))))
    np.save(tmp_path / "images.npy", images(48, 80))
    program = f"""
import sys, keras, numpy
class Watch:
    def find_spec(self, name, path=None, target=None):
        asked.add(name.partition(".")[0])
asked = set()
sys.meta_path.insert(0, Watch())
import keras_cvt
others = {{"tensorflow", "torch", "jax"}} - {{"{BACKEND}"}}
late = {{"huggingface_hub", "PIL", "matplotlib", "sklearn", "training"}}
assert "keras_cvt" in asked and not asked & (others | late), asked
images = numpy.load("images.npy")
for name in ("trained", "deployed"):
    model = keras.saving.load_model(name + ".keras")
    output = keras.ops.convert_to_numpy(model(images))
    assert (output == numpy.load(name + ".npy")).all(), name
assert not model.trainable_weights
assert keras_cvt.feature_pyramid(model)(images)["P4"].shape == (2, 3, 5, 16)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_clone_and_stage_configs():
    model = tiny()
    clone = keras.models.clone_model(model)
    assert stage_configs(clone) == stage_configs(model) == list(TINY)
    keras_cvt.feature_pyramid(clone)


def test_fit_reaches_every_weight(recwarn):
    """One step, compiled by XLA where there is XLA; Keras would warn of weights without gradients."""
    keras.utils.set_random_seed(0)
    stages = TINY[2:]  # with all kinds of weights: XLA takes its time for each block
    model = keras_cvt.CvT(stages, classes=5, input_shape=(32, 32, 3))
    before = {w.path: np.array(numpy(w)) for w in model.weights}  # torch gives a view
    # Plain gradient descent, in a step so large that what has a gradient moves. torch would compile
    # with a C++ toolchain of its own.
    model.compile(
        keras.optimizers.SGD(1e3), "sparse_categorical_crossentropy", jit_compile=has_xla()
    )
    model.fit(images(32, 32), np.array([1, 2]), verbose=0)
    dead = "stage0_blocks_1/attn/conv_proj_q"
    for weight in model.weights:
        unmoved = (numpy(weight) == before[weight.path]).all()
        learned = "moving" not in weight.path
        if learned and (weight.path.startswith(dead) or weight.path.endswith("proj_k/bias")):
            continue
        assert not unmoved, weight.path
    assert not [w for w in recwarn if "radients do not exist" in str(w.message)]


def test_recomputing_changes_no_step():
    """The same gradients and drop path's same draws; BatchNorm's statistics move once, not twice."""
    stages = [dataclasses.replace(TINY[2], drop_path_rate=0.5)]
    trained = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        model = keras_cvt.CvT(stages, input_shape=(32, 48, 3), classes=5, recompute=recompute)
        model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
        model.fit(np.concatenate([images(32, 48)] * 2), np.arange(4), verbose=0)
        trained.append(model.get_weights())
    for expected, found in zip(*trained, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="counts operations in TensorFlow's graph")
def test_recomputing_computes_again():
    import tensorflow as tf

    found = []
    for recompute in (False, True):
        model = keras_cvt.CvT(TINY[1:], input_shape=(32, 48, 3), classes=5, recompute=recompute)

        @tf.function
        def gradients(x, model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True) ** 2)
            return tape.gradient(loss, [v.value for v in model.trainable_variables])

        graph = gradients.get_concrete_function(tf.constant(images(32, 48))).graph.as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        found.append([node.op for node in nodes].count("Softmax") - 1)  # the classifier's own
    blocks = sum(stage.depth for stage in TINY[1:])
    assert found == [blocks, 2 * blocks]
