"""Which images a classifier takes, what its answers mean, and the same for images of other sizes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from backend import numpy
from small_models import images

import keras_cvt
from keras_cvt import StageConfig, classification
from keras_cvt._keras_internal import graph_of

STAGES = (
    StageConfig(8, 1, 1, patch_size=7, patch_stride=4, patch_padding=2),
    StageConfig(12, 1, 2, class_token=True),
)
SHAPE = (32, 32, 3)
L = keras.layers


def cvt(**options):
    return keras_cvt.CvT(STAGES, **{"classes": 4, "input_shape": SHAPE, **options})


def ended(*layers, **options):
    """A CvT's logits, and these layers after them."""
    model = cvt(classifier_activation=None, **options)
    x = model.output
    for layer in layers:
        x = layer(x)
    return keras.Model(model.input, x)


def preceded(*layers, shape=SHAPE, dtype="float32"):
    """A CvT, and these layers before it."""
    inputs = x = keras.Input(shape, dtype=dtype)
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, cvt(input_tensor=x, input_shape=None).output)


# --- what the answers mean -----------------------------------------------------------------------


def conv_head():
    backbone = cvt(include_top=False)
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 1)(backbone.output))
    return keras.Model(backbone.input, x)


def own_head(activation):
    backbone = cvt(include_top=False, pooling="token")
    x = L.Dense(4, activation, name="predictions")(L.Dropout(0.5)(backbone.output))
    return keras.Model(backbone.input, keras_cvt.ClassNames(list("abcd"))(x))


@pytest.mark.parametrize(
    ("make", "logits"),
    [
        (lambda: cvt(), False),
        (lambda: ended(), True),
        (lambda: ended(L.Activation("softmax")), False),
        (lambda: ended(L.Softmax(), L.Activation("linear", dtype="float32")), False),
        (lambda: ended(L.Activation("sigmoid")), False),
        (lambda: ended(L.Activation("log_softmax")), True),
        (lambda: ended(keras.ops.softmax), False),
        (lambda: ended(keras.ops.sigmoid, lambda x: keras.ops.cast(x, "float32")), False),
        (lambda: ended(lambda x: x / 2, L.Softmax()), False),
        (lambda: ended(L.BatchNormalization()), True),
        (lambda: own_head("softmax"), False),
        (lambda: own_head("sigmoid"), False),
        (lambda: own_head(None), True),
        (conv_head, True),
        (lambda: keras.Sequential([keras.Input(SHAPE), cvt(classifier_activation=None)]), True),
    ],
)
def test_what_the_answers_mean(make, logits):
    model = make()
    assert classification.gives_logits(model) is logits
    x = images(32, 32)
    expected = model(x, training=False)
    found = numpy(classification.with_probabilities(model)(x, training=False))
    expected = numpy(keras.ops.softmax(expected) if logits else expected)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found >= 0).all() and (found <= 1).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ended(L.Activation("tanh", name="odd")), r"ends in odd \(tanh\)"),
        (lambda: ended(L.Activation("relu", name="odd")), r"ends in odd \(relu\)"),
        (lambda: ended(lambda x: x / 2), r"ends in .*divide"),
        (lambda: ended(L.Softmax(), L.Rescaling(100, name="percent")), r"ends in percent \(Resc"),
        (lambda: ended(L.LayerNormalization(name="last")), r"ends in last \(LayerNorm"),
        (lambda: own_head("exponential"), r"ends in predictions \(exponential\)"),
        (lambda: cvt(include_top=False, pooling="token"), r"ends in norm \(LayerNormalization\)"),
    ],
)
def test_answers_of_which_no_probability_is_known(make, said):
    with pytest.raises(ValueError, match=f"must end in logits, a softmax or a sigmoid.*{said}"):
        classification.with_probabilities(make())


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_one_output_without_a_sigmoid(activation):
    """Of a single logit, as binary classifiers often give it, each softmax is 1."""
    backbone = cvt(include_top=False, pooling="token")
    model = keras.Model(backbone.input, L.Dense(1, activation)(backbone.output))
    with pytest.raises(ValueError, match="one output and no sigmoid.*Activation"):
        classification.with_probabilities(model)
    sigmoid = keras.Model(backbone.input, L.Activation("sigmoid")(model.output))
    assert not classification.gives_logits(sigmoid)


# --- one input, one output -----------------------------------------------------------------------


def test_single():
    model = cvt()
    assert classification.single(model) is model
    inputs = keras.Input(SHAPE, name="pixels")
    named = keras.Model({"pixels": inputs}, {"scores": cvt()(inputs)}, name="named")
    plain = classification.single(named)
    x = images(32, 32)
    expected = named({"pixels": x}, training=False)["scores"]
    np.testing.assert_array_equal(numpy(plain(x, training=False)), numpy(expected))
    assert plain.name == "named"


def several(kind):
    inputs, other = keras.Input(SHAPE, name="a"), keras.Input((3,), name="b")
    backbone = cvt(include_top=False, pooling="token")
    features = backbone(inputs)
    if kind == "outputs":
        return keras.Model(inputs, [L.Dense(2)(features), L.Dense(3)(features)], name="m")
    if kind == "inputs":
        return keras.Model(
            [inputs, other], L.Dense(2)(L.Concatenate()([features, other])), name="m"
        )
    return keras.Model(
        inputs, L.Average()([features, backbone(keras.ops.flip(inputs, 2))]), name="m"
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("outputs", "one output. 'm' has 1 and 2. keras.Model.model.input, model.outputs.0.. has"),
        ("inputs", "one input, images, and one output. 'm' has 2 and 1.$"),
    ],
)
def test_several_inputs_and_outputs(kind, message):
    with pytest.raises(ValueError, match=message):
        classification.single(several(kind))


def test_a_cvt_that_is_called_twice_or_hidden():
    with pytest.raises(ValueError, match="called once, and 'cvt' is called more than once in 'm'"):
        classification.takes_pixels(several("twice"))

    class Wrapper(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.inner = cvt()

        def call(self, x):
            return self.inner(x)

    model = Wrapper()
    model(images(32, 32))
    with pytest.raises(ValueError, match=r"and 'own' \(Wrapper\) is not one. Give the CvT itself"):
        classification.single(model)


# --- which images it takes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "pixels"),
    [
        (lambda: cvt(), False),
        (lambda: preceded(L.RandomFlip(), L.RandomContrast(0.2), L.Identity()), False),
        (lambda: preceded(L.Resizing(32, 32), shape=(None, None, 3)), False),
        (lambda: preceded(L.ZeroPadding2D(4), shape=(24, 24, 3)), False),
        (lambda: preceded(lambda x: keras.ops.flip(x, -1)), False),  # of the channels
        (lambda: preceded(lambda x: L.Concatenate()([x, x, x]), shape=(32, 32, 1)), False),
        (lambda: preceded(L.Rescaling(1 / 127.5, offset=-1)), True),
        (lambda: preceded(L.Rescaling(1 / 255)), True),
        (lambda: preceded(L.RandomFlip(), L.Rescaling(1 / 255)), True),
        (lambda: preceded(L.Normalization(mean=[120.0] * 3, variance=[60.0**2] * 3)), True),
        (lambda: preceded(lambda x: (x / 255 - 0.5) / 0.25), True),
        (lambda: preceded(keras_cvt.preprocess_input), True),
        (lambda: preceded(L.Rescaling(1 / 127.5, offset=-1), dtype="uint8"), True),
        (
            lambda: keras.Sequential([keras.Input(SHAPE), L.Rescaling(1 / 255), cvt()]),
            True,
        ),
    ],
)
def test_what_a_model_normalizes_itself_is_known(make, pixels):
    model = classification.single(make())
    assert classification.takes_pixels(model) is pixels
    found = classification.preprocessing_for(model, 32, None)
    assert found.mean == ((0, 0, 0) if pixels else (0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: preceded(L.Conv2D(3, 1, name="mixed")), r"there is mixed \(Conv2D\), which has w"),
        # For values from 0 to 1.
        (lambda: preceded(L.Normalization(mean=[0.5] * 3, variance=[0.25] * 3)), "up to 509"),
        (lambda: preceded(L.Rescaling(2.0, offset=-1)), "up to 509"),
        (
            lambda: preceded(lambda x: keras.ops.cast(x, "float32"), dtype="uint8"),
            "takes uint8 images and does not normalize them",
        ),
    ],
)
def test_a_model_for_unknown_images_is_refused(make, said):
    with pytest.raises(ValueError, match=said) as caught:
        classification.takes_pixels(make())
    assert "\n" not in str(caught.value)


# --- the same for other sizes --------------------------------------------------------------------


def nested():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, L.Dense(4)(cvt(include_top=False, pooling="token")(inputs)))


def nested_twice():
    inner = keras.Sequential([keras.Input(SHAPE), L.Rescaling(0.5), cvt()])
    return keras.Sequential([keras.Input(SHAPE), inner, L.Softmax()])


def resizing():
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, cvt(input_shape=(24, 24, 3))(L.Resizing(24, 24)(inputs)))


def positions():
    stages = [StageConfig(8, 1, 1, position_embedding=True), *STAGES[1:]]
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, keras_cvt.CvT(stages, classes=4, input_shape=SHAPE)(inputs))


def adapted():
    normalization = L.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 5, (8, 4, 4, 3)))
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, cvt(input_shape=(None, None, 3))(normalization(inputs)))


@pytest.mark.parametrize("make", [cvt, nested, nested_twice, resizing, positions, adapted])
def test_other_sizes(make):
    model = make()
    assert classification.resized(model, 32, 32) is model
    larger = classification.resized(model, 48, 64)
    assert tuple(larger.inputs[0].shape) == (None, 48, 64, 3)
    any_size = classification.resized(model, None, None)
    for size in ((32, 32), (48, 64)):
        x = images(*size)
        given = model if size == (32, 32) else larger
        expected = numpy(given(x, training=False))
        np.testing.assert_allclose(numpy(any_size(x, training=False)), expected, atol=1e-5)
    kept = [graph_of(layer).inputs[0].shape for layer in larger.layers if graph_of(layer)]
    assert all(shape[1] == 24 for shape in kept) == (make in (resizing, cvt))


def test_a_model_for_one_size_says_so():
    backbone = cvt(include_top=False)
    for model in (
        keras.Model(backbone.input, L.Dense(4)(L.Flatten()(backbone.output))),
        keras.Model(x := keras.Input(SHAPE), L.Dense(4)(L.Flatten()(backbone(x)))),
    ):
        with pytest.raises(
            ValueError, match="cannot be used for images of 48x48 pixels: "
        ) as caught:
            classification.resized(model, 48, 48)
        assert "\n" not in str(caught.value)
