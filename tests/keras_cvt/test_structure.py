"""What a model is made of (keras_cvt/structure.py), and what is done with models built around a CvT."""

import keras
import numpy as np
import pytest
from backend import numpy
from small_models import images

import keras_cvt
from keras_cvt import StageConfig, weights
from keras_cvt.classification import gives_logits
from keras_cvt.export.classifier import prepare
from keras_cvt.structure import stage_configs, structure_of, weights_by_path, with_features

STAGES = [
    StageConfig(8, 1, 1, patch_size=7, patch_stride=4, patch_padding=2),
    StageConfig(12, 1, 3, mlp_ratio=2),
    StageConfig(16, 2, 2, class_token=True),
]


def cvt(**options):
    """A model whose weights are no initial ones, so that everything that is folded shows."""
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(STAGES, **{"classes": 5, "input_shape": (48, 48, 3), **options})
    rng = np.random.default_rng(1)
    for path, weight in enumerate_weights(model):
        noise = rng.normal(size=weight.shape)
        weight.assign(np.exp(noise) if "variance" in path else numpy(weight) + 0.1 * noise)
    return model


def enumerate_weights(model):
    return [item for layer in model.layers for item in weights_by_path(layer).items()]


def backbone(**options):
    return cvt(include_top=False, pooling="token", **options)


# --- every way to build a model around a CvT ----------------------------------------------------


def plain():
    return cvt()


def scoped():
    with keras.name_scope("outer"):
        return cvt()


def renamed():
    model = cvt()

    def clone(layer):
        return type(layer).from_config({**layer.get_config(), "name": f"x{layer.name[::-1]}"})

    other = keras.models.clone_model(model, clone_function=clone)
    other.set_weights(model.get_weights())
    return other


def preprocessing():
    inputs = keras.Input((48, 48, 3), name="pixels")
    return cvt(input_tensor=keras.layers.Rescaling(0.5, offset=0.1)(inputs), input_shape=None)


def own_head():
    model = backbone()
    x = keras.layers.Dropout(0.5)(model.output)
    return keras.Model(model.input, keras.layers.Dense(5, name="predictions")(x))


def logits_then_softmax():
    model = cvt(classifier_activation=None)
    return keras.Model(model.input, keras.layers.Activation("softmax")(model.output))


def nested():
    inputs = keras.Input((48, 48, 3), name="pixels")
    x = backbone()(keras.layers.Rescaling(0.5)(inputs), training=False)
    return keras.Model(inputs, keras.layers.Dense(5, "sigmoid")(keras.layers.Dropout(0.1)(x)))


def nested_twice():
    inner = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Rescaling(0.5), backbone()])
    return keras.Sequential([keras.Input((48, 48, 3)), inner, keras.layers.Dense(5)])


def nested_classifier():
    model = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.Rescaling(0.5)])
    model.add(cvt(classifier_activation=None))
    model.add(keras.layers.Softmax())
    return model


MODELS = {
    function.__name__: function
    for function in (
        plain,
        scoped,
        renamed,
        preprocessing,
        own_head,
        logits_then_softmax,
        nested,
        nested_twice,
        nested_classifier,
    )
}


def loaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def cloned(model, tmp_path):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def the_same(model, tmp_path):
    return model


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def model(request):
    return request.param()


@pytest.mark.parametrize("made", [the_same, loaded, cloned])
def test_every_model_has_the_structure_of_its_cvt(model, made, tmp_path):
    structure = structure_of(made(model, tmp_path))
    assert structure.configs == stage_configs(model) == STAGES
    assert [len(stage.blocks) for stage in structure.stages] == [1, 1, 2]
    assert structure.token_only and structure.stages[-1].map is None
    assert structure.stages[1].map.shape[-1] == 12
    assert isinstance(structure.norm, keras.layers.LayerNormalization)
    assert tuple(structure.image.shape) == (None, 48, 48, 3)
    assert structure.head.dense.units == 5
    assert tuple(structure.head.features.shape) == (None, 16)
    assert len(list(structure.parts())) == 3 + 1 + 4 + 1 + (structure.classifier is not None)


def test_deployed_models_compute_the_same(model):
    deployed = keras_cvt.deploy(model)
    assert not any("variance" in path for path, _ in enumerate_weights(deployed))
    assert structure_of(deployed).configs == STAGES
    assert [layer.name for layer in deployed.layers] == [layer.name for layer in model.layers]
    x = images(48, 48)
    expected = numpy(model(x, training=False))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(numpy(deployed(x)), expected, atol=1e-5)


def test_attention_maps_are_those_of_the_cvt(model):
    x = images(48, 48)
    found = keras_cvt.attention_maps(model, x)
    structure = structure_of(model)
    pixels = numpy(structure.compute(x, structure.image))
    alone = keras_cvt.CvT(STAGES, classes=5, input_shape=(48, 48, 3))
    for (_, ours), (_, theirs) in zip(structure_of(alone).parts(), structure.parts(), strict=False):
        ours.set_weights(theirs.get_weights())
    expected = keras_cvt.attention_maps(alone, pixels)
    np.testing.assert_allclose(found.rollout, expected.rollout, atol=1e-6)
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-6)
    assert (found.start, found.stride) == (expected.start, expected.stride)


def test_official_names_follow_from_positions(model):
    expected = weights.named_variables(backbone())
    found = weights.named_variables(model)
    head = {"head.weight", "head.bias"} if structure_of(model).classifier is not None else set()
    assert set(found) == set(expected) | head
    for name, variable in expected.items():  # all these models have the same weights
        np.testing.assert_array_equal(numpy(found[name]), numpy(variable))


def test_complexity_counts_the_cvt(model):
    classes = 5 if structure_of(model).classifier is not None else 0
    found = keras_cvt.complexity(model)
    assert found.parameters + found.statistics == sum(
        int(np.prod(variable.shape)) for variable in weights.named_variables(model).values()
    )
    assert found.computed < found.multiply_adds
    if classes:
        assert found == keras_cvt.complexity(STAGES, (48, 48, 3), classes)


def test_what_is_exported_is_the_models_own_function(model):
    logits = gives_logits(model)
    exported = prepare(model, logits)
    x = images(48, 48)
    found = {name: numpy(value) for name, value in exported(x).items()}
    expected = numpy(model(x, training=False))
    if logits:
        expected = numpy(keras.ops.softmax(expected))
    np.testing.assert_allclose(found["probabilities"], expected, atol=1e-5)
    answers, features = with_features(model)(x, training=False)
    np.testing.assert_allclose(found["features"], numpy(features), atol=1e-4)
    np.testing.assert_allclose(numpy(answers), numpy(model(x, training=False)), atol=1e-6)


def test_pyramids_of_all_models(model):
    x = images(48, 48)
    pyramid = keras_cvt.feature_pyramid(model)
    levels = {name: tuple(level.shape) for name, level in pyramid(x).items()}
    assert levels == {"P2": (2, 12, 12, 8), "P3": (2, 6, 6, 12), "P4": (2, 3, 3, 16)}
    structure = structure_of(model)
    for level, stage in zip(pyramid(x).values(), structure.stages[:2], strict=False):
        np.testing.assert_allclose(numpy(level), numpy(structure.compute(x, stage.map)), atol=1e-6)
    assert structure_of(pyramid).configs == STAGES
    assert not structure_of(pyramid).token_only and structure_of(pyramid).head is None


# --- what is read of single models --------------------------------------------------------------


def test_where_the_head_is():
    model = cvt()
    found = structure_of(model)
    assert found.classifier is found.head.dense is model.get_layer("head")
    found = structure_of(own_head())
    assert found.classifier is found.head.dense
    assert found.classifier.name == "predictions"
    found = structure_of(logits_then_softmax())
    assert [type(layer) for layer in found.head.behind] == [keras.layers.Activation]
    found = structure_of(nested())
    assert found.classifier is None and found.head.path == ()
    assert [layer.name for layer in found.path] == ["cvt"]
    found = structure_of(nested_classifier())
    assert found.classifier is found.head.dense and found.head.path == found.path


def test_a_head_of_several_layers_is_no_classifier_of_the_cvt():
    model = backbone()
    hidden = keras.layers.Dense(7, "relu")(model.output)
    model = keras.Model(model.input, keras.layers.Dense(5)(hidden))
    structure = structure_of(model)
    assert structure.head.dense.units == 5 and tuple(structure.head.features.shape) == (None, 7)
    assert structure.classifier.units == 7  # directly on the norm


@pytest.mark.parametrize(("pooling", "norm"), [(None, False), ("avg", True), ("max", True)])
def test_backbones(pooling, norm):
    structure = structure_of(cvt(include_top=False, pooling=pooling))
    assert (structure.norm is not None) == norm
    assert structure.head is structure.classifier is None
    assert not structure.token_only and structure.stages[-1].map.shape[-1] == 16


def test_what_comes_before():
    kinds = [type(operation) for operation in structure_of(preprocessing()).before]
    assert kinds == [keras.layers.Rescaling]
    assert [type(o) for o in structure_of(nested_twice()).before] == [keras.layers.Rescaling]
    assert structure_of(cvt()).before == ()


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_model(tmp_path):
    stages = [StageConfig(8, 1, 2, class_token=True)]
    model = keras_cvt.CvT(stages, classes=5, input_shape=(32, 32, 3))
    model.quantize("int8")
    assert stage_configs(model) == stage_configs(loaded(model, tmp_path)) == stages
    assert any("scale" in name for name in weights.named_variables(model))


def test_a_layer_around_the_cvt():
    class Wrapper(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    model = Wrapper(cvt())
    assert stage_configs(model) == STAGES  # what needs no graph around it works
    assert set(weights.named_variables(model)) == set(weights.named_variables(cvt()))
    for function in (keras_cvt.deploy, keras_cvt.feature_pyramid):
        with pytest.raises(ValueError, match=r"reached through functional models.*Give the CvT"):
            function(model)


# --- what is refused ----------------------------------------------------------------------------


def two_in_parallel():
    inputs = keras.Input((48, 48, 3), name="pixels")
    return keras.Model(inputs, keras.layers.Add()([backbone(name="a")(inputs), backbone()(inputs)]))


def two_in_one_graph():
    inputs = keras.Input((48, 48, 3), name="pixels")
    stage = keras_cvt.ConvEmbedding(8), keras_cvt.CvTBlock(8, 2)
    other = keras_cvt.ConvEmbedding(8), keras_cvt.CvTBlock(8, 2)
    maps = [block(embedding(inputs)) for embedding, block in (stage, other)]
    return keras.Model(inputs, maps)


def no_blocks():
    inputs = keras.Input((48, 48, 3), name="pixels")
    return keras.Model(inputs, keras_cvt.ConvEmbedding(8)(inputs))


def no_embedding():
    return keras.Sequential([keras.Input((48, 48, 8)), keras_cvt.CvTBlock(8, 2)])


def no_graph():
    class Model(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.embedding, self.block = keras_cvt.ConvEmbedding(8), keras_cvt.CvTBlock(8, 2)

    return Model()


def another():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (another, "made by keras_cvt.*'other' has no ConvEmbedding"),
        (two_in_parallel, "one CvT.*2 of its models have ConvEmbeddings: 'a' and 'cvt'"),
        (two_in_one_graph, "one CvT.*does not follow 'conv_embedding"),
        (no_blocks, "no CvTBlock follows 'conv_embedding"),
        (no_embedding, "made by keras_cvt.*has no ConvEmbedding"),
        (no_graph, "connected in a functional model. 'own' is a Model"),
    ],
)
def test_what_is_no_single_cvt(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        structure_of(make())
    assert "\n" not in str(caught.value)
