"""Building, saving and inspecting models (keras_cvt.models, architecture, analysis.complexity)."""

from __future__ import annotations

import dataclasses
import inspect
import json
import random
import subprocess
import sys

import keras
import numpy as np
import pytest
import reference_models
from backend import BACKEND, numpy
from tiny_cvt import TINY, images, tiny

import keras_cvt
from keras_cvt import StageConfig, complexity, models, weights
from keras_cvt.architecture import VARIANTS, variant_named
from keras_cvt.structure import stage_configs


@pytest.mark.parametrize(
    ("variant", "trainable", "total"),
    [
        ("CvT13", 19_997_480, 20_023_208),
        ("CvT21", 31_622_696, 31_664_552),
        ("CvTW24", 277_196_392, 277_330_792),
    ],
)
def test_parameter_counts(variant, trainable, total):
    before = random.getstate()
    result = complexity(VARIANTS[variant])
    assert random.getstate() == before  # what is made afterwards has the same initial weights
    assert (result.parameters, result.parameters + result.statistics) == (trainable, total)
    if variant == "CvTW24":
        return  # building it takes 1.1 GB, and the counts of the others show that the formula holds
    model = getattr(keras_cvt, variant)(weights=None)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == trainable
    assert model.count_params() == total
    assert model.name == variant.lower()
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize(
    ("variant", "size", "giga"),
    [
        ("CvT13", 224, 4.57),
        ("CvT21", 224, 7.18),
        ("CvTW24", 224, 60.9),
        ("CvT13", 384, 16.27),
        ("CvT21", 384, 24.85),
        ("CvTW24", 384, 194.2),
    ],
)
def test_multiply_adds(variant, size, giga):
    result = complexity(VARIANTS[variant], (size, size, 3))
    assert float(f"{result.multiply_adds / 1e9:.4g}"[: len(str(giga)) + 1]) == pytest.approx(
        giga, abs=0.5 * 10 ** -len(str(giga).partition(".")[2])
    )


def test_multiply_adds_of_the_ablations():
    stride_1 = [dataclasses.replace(stage, stride_kv=1) for stage in VARIANTS["CvT13"]]
    assert complexity(stride_1).multiply_adds / 1e9 == pytest.approx(6.64, abs=0.005)
    result = complexity(VARIANTS["CvT13"])
    assert result.computed / 1e9 == pytest.approx(4.27, abs=0.005)


def test_signature_is_that_of_keras_applications():
    asked = inspect.signature(keras.applications.ResNet50).parameters
    for constructor in (keras_cvt.CvT13, keras_cvt.CvT21, keras_cvt.CvTW24):
        ours = inspect.signature(constructor).parameters
        order = [name for name in ours if name in asked]
        assert order == list(asked)
        for name in asked:
            if name != "name":
                assert ours[name].default == asked[name].default
        assert all(name in constructor.__doc__ for name in ours)


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
        assert keras.backend.standardize_dtype(logits(images(32, 32)).dtype) == "float32"
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


@pytest.mark.parametrize(
    ("stages", "parameters"),
    [
        # Table 5: position embedding in every stage, in the first, in the last
        (
            {
                0: {"position_embedding": True},
                1: {"position_embedding": True},
                2: {"position_embedding": True},
            },
            20.42,
        ),
        ({0: {"position_embedding": True}}, 20.20),
        ({2: {"position_embedding": (14, 14)}}, 20.07),
        # Table 6: non-overlapping patches (the paper prints 19.5)
        (
            {
                0: {"patch_size": 4, "patch_stride": 4, "patch_padding": 0},
                1: {"patch_size": 2, "patch_stride": 2, "patch_padding": 0},
                2: {"patch_size": 2, "patch_stride": 2, "patch_padding": 0},
            },
            19.56,
        ),
        # Table 7
        ({0: {"stride_kv": 1}, 1: {"stride_kv": 1}, 2: {"stride_kv": 1}}, 20.00),
        # Table 8: linear projections in all stages
        (
            {0: {"projection": "linear"}, 1: {"projection": "linear"}, 2: {"projection": "linear"}},
            19.86,
        ),
        # CvT-13-NAS: stride 2 and ratio 2 outside, stride 1 and ratio 4 in the middle
        (
            {
                0: {"mlp_ratio": 2},
                1: {"stride_kv": 1},
                2: {"mlp_ratio": [2] * 9 + [4], "stride_kv": [2] * 9 + [1]},
            },
            14.67,
        ),
    ],
)
def test_the_papers_ablations_are_configurations(stages, parameters):
    configs = [
        {**dataclasses.asdict(stage), **stages.get(i, {})}
        for i, stage in enumerate(VARIANTS["CvT13"])
    ]
    assert round(complexity(configs).parameters / 1e6, 2) == parameters  # counted as built


def test_complexity_of_models():
    top = tiny()
    assert complexity(top, (64, 64, 3)) == complexity(TINY, (64, 64, 3), classes=5)
    backbone = tiny(include_top=False)
    result = complexity(backbone, (64, 64, 3))
    assert result.computed == result.multiply_adds
    assert result.parameters + result.statistics == backbone.count_params()
    rows = {row.name: row for row in result.by_layer()}
    for layer in backbone.layers:
        assert layer.count_params() == (
            rows[layer.name].parameters + rows[layer.name].statistics if layer.name in rows else 0
        )
    with pytest.raises(ValueError, match="without None"):
        complexity(backbone)
    pyramid = complexity(keras_cvt.feature_pyramid(top), (64, 64, 3))
    assert pyramid.computed == pyramid.multiply_adds == result.multiply_adds


def test_last_block_computes_the_class_token_only():
    assert "stage2" not in [layer.name for layer in tiny().layers]
    names = [layer.name for layer in tiny(include_top=False).layers]
    assert {"stage0", "stage1", "stage2"} <= set(names)


def test_one_model_for_images_of_any_size():
    """Compiled, of unknown height and width; each size within 1e-5 of a model of that size."""
    model = tiny()
    for size in ((32, 32), (48, 80), (57, 41)):
        x = images(*size)
        fixed = tiny(input_shape=(*size, 3))
        fixed.set_weights(model.get_weights())
        ours, theirs = model.predict(x, verbose=0), fixed.predict(x, verbose=0)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data, tf.function and SavedModel")
@pytest.mark.parametrize("options", [{}, {"include_top": False, "pooling": "token"}])
def test_unknown_sizes_in_graphs(options, tmp_path):
    import tensorflow as tf

    model = tiny(**options)
    spec = tf.TensorSpec((None, None, None, 3))
    x = images(48, 80)
    expected = numpy(model(x))
    for jit in (False, True):
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


@pytest.mark.parametrize("options", [{}, {"dtype": "mixed_bfloat16"}])
def test_save_and_load(options, tmp_path):
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


def test_load_in_a_fresh_process(tmp_path):
    model = tiny()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "expected.npy", numpy(model(images(48, 80))))
    np.save(tmp_path / "images.npy", images(48, 80))
    program = """
import sys, numpy, keras, keras_cvt
model = keras.saving.load_model("model.keras")
output = keras.ops.convert_to_numpy(model(numpy.load("images.npy")))
assert (output == numpy.load("expected.npy")).all()
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_clone_and_stage_configs():
    model = tiny()
    clone = keras.models.clone_model(model)
    assert stage_configs(clone) == stage_configs(model) == list(TINY)
    keras_cvt.feature_pyramid(clone)


def test_fit_reaches_every_weight(recwarn):
    """One step of plain `fit`; Keras would warn of weights without gradients."""
    keras.utils.set_random_seed(0)
    model = tiny(input_shape=(32, 32, 3))
    before = {w.path: np.array(numpy(w)) for w in model.weights}  # torch gives a view
    # Plain gradient descent, in a step so large that what has a gradient moves.
    model.compile(keras.optimizers.SGD(1e3), "sparse_categorical_crossentropy")
    model.fit(images(32, 32), np.array([1, 2]), verbose=0)
    dead = "stage2_blocks_1/attn/conv_proj_q"
    for weight in model.weights:
        unmoved = (numpy(weight) == before[weight.path]).all()
        learned = "moving" not in weight.path
        if learned and (weight.path.startswith(dead) or weight.path.endswith("proj_k/bias")):
            continue
        assert not unmoved, weight.path
    assert not [w for w in recwarn if "radients do not exist" in str(w.message)]


@pytest.mark.skipif(BACKEND == "torch", reason="torch compiles with a C++ toolchain of its own")
def test_jit_compiled_fit():
    stages = TINY[2:]  # with all kinds of weights: XLA takes its time for each block
    model = keras_cvt.CvT(stages, classes=5, input_shape=(32, 32, 3))
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=True)
    model.fit(images(32, 32), np.array([1, 2]), verbose=0)


def test_recomputing_changes_no_step():
    """The same gradients and drop path's same draws; BatchNorm's statistics move once, not twice."""
    stages = [*TINY[:2], dataclasses.replace(TINY[2], drop_path_rate=0.5)]
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
        model = keras_cvt.CvT(TINY, input_shape=(32, 48, 3), classes=5, recompute=recompute)

        @tf.function
        def gradients(x, model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True) ** 2)
            return tape.gradient(loss, [v.value for v in model.trainable_variables])

        graph = gradients.get_concrete_function(tf.constant(images(32, 48))).graph.as_graph_def()
        nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
        found.append([node.op for node in nodes].count("Softmax") - 1)  # the classifier's own
    blocks = sum(stage.depth for stage in TINY)
    assert found == [blocks, 2 * blocks]


class _NoWeights:
    """Fails the test when a weight is made."""

    def __enter__(self):
        self.original = keras.layers.Layer.add_weight

        def add_weight(layer, *args, **kwargs):
            raise AssertionError(f"{layer.name} made a weight before the arguments were checked")

        keras.layers.Layer.add_weight = add_weight

    def __exit__(self, *exception):
        keras.layers.Layer.add_weight = self.original


BAD_STAGES = [
    ({"num_heads": 3}, "Stage 0: num_heads=3 does not divide embed_dim=8"),
    ({"depth": 0}, "depth.*at least 1"),
    ({"projection": "lineal"}, "Stage 0: .*projection"),
    ({"stride_kv": [1, 2]}, "stride_kv.*one for each of the 1 blocks.*2 values"),
    ({"stride_q": 2}, "Stage 0: .*keep the size"),
    ({"strid_kv": 2}, "strid_kv.*Did you mean 'stride_kv'"),
    ({"patch_padding": -1}, "patch_padding.*at least 0"),
    ({"position_embedding": True}, "must be known"),
    ({"drop_path_rate": 1.5}, "drop_path_rate.*less than 1"),
    ({"drop_path_rate": -1}, "drop_path_rate.*at least 0"),
    ({"drop_rate": "a"}, "drop_rate"),
    ({"mlp_ratio": "4"}, "mlp_ratio.*number above 0.*'4'"),
    ({"mlp_ratio": 0}, "mlp_ratio.*number above 0"),
    ({"stride_kv": "2"}, "stride_kv.*integer"),
    ({"class_token": "no"}, "class_token.*True or False.*'no'"),
    ({"position_embedding": "yes"}, "position_embedding.*height, width.*'yes'"),
]


@pytest.mark.parametrize(("change", "message"), BAD_STAGES)
def test_wrong_stages(change, message):
    stage = {"embed_dim": 8, "depth": 1, "num_heads": 2, **change}
    with _NoWeights(), pytest.raises(ValueError, match=message):
        keras_cvt.CvT([stage], include_top=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include_top": False, "pooling": "tokens"}, "pooling.*Did you mean 'token'"),
        ({"pooling": "avg"}, "include_top=False"),
        ({"classes": 0}, "classes.*at least 1"),
        ({"classes": 10.0}, "classes.*integer"),
        ({"classifier_activation": "sofmax"}, "sofmax"),
        ({"activation": "quick_glu"}, "quick_glu"),
        ({"input_shape": (2, 64, 3)}, "2x64 are too small.*at least 3 pixels"),
        ({"input_shape": (3, 64, 64)}, "looks like channels first"),
        ({"input_shape": (64, 64)}, "height, width, channels"),
        ({"input_shape": (64, 64, None)}, "number of channels"),
        ({"input_shape": (64, 64, 0)}, "height, width, channels"),
        ({"weights": "imagenet"}, "weights.*None.*'imagenet'"),
        ({"input_shape": 64}, "height, width, channels"),
        ({"weights": True}, "None, a name or a path"),
        ({"input_tensor": keras.Input((64, 64, 3), dtype="uint8"), "input_shape": None}, "Cast it"),
        ({"input_tensor": np.zeros((1, 64, 64, 3))}, "Keras tensor.*ndarray"),
        ({"input_tensor": keras.Input((64, 3)), "input_shape": None}, "height, width, channels"),
        ({"input_tensor": keras.Input((64, 64, 3)), "input_shape": (32, 32, 3)}, "Leave it out"),
    ],
)
def test_wrong_arguments(options, message):
    with _NoWeights(), pytest.raises(ValueError, match=message):
        tiny(**options)


def test_more_wrong_arguments():
    with _NoWeights():
        with pytest.raises(ValueError, match="stages. is empty"):
            keras_cvt.CvT([])
        with pytest.raises(ValueError, match="Stage 0 must be a StageConfig"):
            keras_cvt.CvT([8])
        with pytest.raises(ValueError, match="must be a list of stages"):
            keras_cvt.CvT(TINY[0])
        with pytest.raises(ValueError, match="Stage 0 has no num_heads"):
            keras_cvt.CvT([{"embed_dim": 8, "depth": 1}])
        with pytest.raises(ValueError, match="3 channels, the model for 4"):
            keras_cvt.CvT13(input_shape=(224, 224, 4))  # before anything is downloaded
        with pytest.raises(ValueError, match="needs a class token"):
            keras_cvt.CvT(TINY[:2], include_top=False, pooling="token")
        with pytest.raises(ValueError, match="Did you mean 'imagenet-384'"):
            keras_cvt.CvT13(weights="imagenet_384")
        with pytest.raises(TypeError):
            keras_cvt.CvT13(weights=None, drop_rate=0.1)  # a misspelt argument is not swallowed


def test_numpy_numbers_are_numbers():
    model = tiny(classes=np.int64(5))
    assert model.output_shape == (None, 5)
    stage = StageConfig(np.int32(8), 2, 1, stride_kv=np.array([1, 2]), mlp_ratio=np.array([2, 4]))
    assert stage.stride_kv == (1, 2) and stage.mlp_ratio == (2, 4)


def test_specs():
    spec = json.loads((reference_models.FOLDER / "tiny-mixed" / "spec.json").read_text())
    stages = keras_cvt.stages_from_spec(spec)
    assert [s.mlp_ratio for s in stages] == [2, 4, 2]
    assert [s.class_token for s in stages] == [False, False, True]
    assert keras_cvt.stages_from_spec({k.upper(): v for k, v in spec.items()}) == stages
    assert keras_cvt.stages_from_spec({"MODEL": {"NAME": "cls_cvt", "SPEC": spec}}) == stages
    with pytest.raises(ValueError, match="'mlp_rato'. Did you mean 'mlp_ratio'"):
        keras_cvt.stages_from_spec({**spec, "mlp_rato": [4, 4, 4]})
    with pytest.raises(ValueError, match="'mlp_ratio' must be a list"):
        keras_cvt.stages_from_spec({**spec, "mlp_ratio": 4.0})
    with pytest.raises(ValueError, match="nothing of depth"):
        keras_cvt.stages_from_spec({k: v for k, v in spec.items() if k != "depth"})
    with pytest.raises(ValueError, match="differ in length.*mlp_ratio: 2"):
        keras_cvt.stages_from_spec({**spec, "mlp_ratio": [4, 4]})


def test_import_asks_for_no_other_backend():
    """Nor for what only some users need: those imports wait until they are used."""
    program = f"""
import sys, keras
class Watch:
    def find_spec(self, name, path=None, target=None):
        asked.add(name.partition(".")[0])
asked = set()
sys.meta_path.insert(0, Watch())
import keras_cvt
others = {{"tensorflow", "torch", "jax"}} - {{"{BACKEND}"}}
late = {{"huggingface_hub", "PIL", "matplotlib", "sklearn", "training"}}
assert "keras_cvt" in asked and not asked & (others | late), asked
"""
    subprocess.run([sys.executable, "-c", program], check=True)
