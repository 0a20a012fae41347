"""The model of a file is evaluated as it is: its end, its precision, and other image sizes."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_cvt
from training.config import ConfigError
from training.evaluation import graph

STAGES = [
    keras_cvt.StageConfig(embed_dim=8, depth=1, num_heads=1, patch_size=7, patch_stride=4),
    keras_cvt.StageConfig(embed_dim=16, depth=1, num_heads=2, class_token=True),
]
SHAPE = (32, 32, 3)


def cvt(**options) -> keras.Model:
    keras.utils.set_random_seed(1)
    options = {"weights": None, "classes": 5, "input_shape": SHAPE, **options}
    model = keras_cvt.CvT(STAGES, **options)
    for weight in model.weights:  # a new CvT's answers differ little from image to image
        if weight.path.endswith("kernel"):
            weight.assign(5 * weight)
    return model


def images(size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, size, size, 3)).astype("float32")


def softmax(logits: np.ndarray) -> np.ndarray:
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def ended(*layers: keras.Layer) -> keras.Model:
    """A CvT's logits, and these layers after them."""
    model = cvt(classifier_activation=None)
    x = model.output
    for layer in layers:
        x = layer(x)
    return keras.Model(model.input, x)


def nested() -> keras.Model:
    inner = cvt()
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, keras.layers.Dropout(0.5)(inner(inputs)))


def shared() -> keras.Model:
    """The softmax before a second head is the one at the end."""
    softmax = keras.layers.Activation("softmax")
    model = cvt(classifier_activation=None)
    hidden = softmax(model.output)
    return keras.Model(model.input, softmax(keras.layers.Dense(5)(hidden)))


@pytest.mark.parametrize(
    "make",
    [
        cvt,
        lambda: cvt(classifier_activation=None),
        lambda: ended(keras.layers.Activation("softmax")),
        lambda: ended(keras.layers.Softmax()),
        lambda: ended(keras.layers.Activation("softmax"), keras.layers.Activation("linear")),
        lambda: ended(keras.layers.Activation("log_softmax")),
        nested,
        shared,
        lambda: keras.Sequential([keras.Input(SHAPE), cvt(classifier_activation=None)]),
    ],
    ids=["softmax", "logits", "activation", "layer", "linear", "log", "nested", "shared", "chain"],
)
def test_a_softmax_of_the_logits_is_what_the_model_says(make):
    model = make()
    expected = model.predict(images(), verbose=0)
    if np.any(expected < 0):  # logits
        expected = softmax(expected)
    logits = graph.with_logits(model, "it").predict(images(), verbose=0)
    np.testing.assert_allclose(softmax(logits), expected, rtol=2e-5)
    assert expected.std() > 0.02


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (
            lambda: keras.layers.Activation("sigmoid", name="several"),
            r"ends in several \(sigmoid\)",
        ),
        (lambda: keras.layers.Dense(5, activation="relu", name="odd"), r"ends in odd \(relu\)"),
        (lambda: keras.layers.Rescaling(2.0, name="twice"), r"ends in twice \(Rescaling\)"),
        (lambda: keras.layers.LayerNormalization(), "ends in another layer"),
    ],
)
def test_another_end_is_refused(end, said):
    with pytest.raises(ConfigError, match="m.keras must end in logits or a softmax.*" + said):
        graph.with_logits(ended(end()), "m.keras")


def test_one_output_is_refused():
    backbone = cvt(include_top=False, pooling="token")
    model = keras.Model(backbone.input, keras.layers.Dense(1)(backbone.output))
    with pytest.raises(ConfigError, match="m.keras must tell classes apart, and has one output"):
        graph.with_logits(model, "m.keras")


def test_the_same_graph_for_other_images_and_precisions():
    model = cvt()
    assert graph.precision_of(model) == "float32"
    assert graph.rebuilt(model, 32, "float32", "it") is model

    larger = graph.rebuilt(model, 48, "float32", "it")
    assert larger.input_shape == (None, 48, 48, 3)
    expected = cvt(input_shape=(48, 48, 3))
    expected.set_weights(model.get_weights())
    np.testing.assert_allclose(
        larger.predict(images(48), verbose=0), expected.predict(images(48), verbose=0), rtol=1e-5
    )

    coarse = graph.rebuilt(model, 32, "mixed_bfloat16", "it")
    assert graph.precision_of(coarse) == "mixed_bfloat16"
    assert coarse.get_layer("stage0_blocks_0").mlp.compute_dtype == "bfloat16"
    assert coarse.get_layer("head").compute_dtype == "float32"  # as a CvT has it
    expected = cvt(dtype="mixed_bfloat16")
    expected.set_weights(model.get_weights())
    np.testing.assert_allclose(
        coarse.predict(images(), verbose=0), expected.predict(images(), verbose=0), rtol=1e-5
    )


def test_a_model_of_any_size_is_taken_as_it_is():
    model = cvt(input_shape=(None, None, 3))
    assert graph.rebuilt(model, 48, "float32", "it") is model


def test_a_model_for_one_size_says_so():
    model = keras_cvt.CvT(STAGES, weights=None, include_top=False, input_shape=SHAPE)
    fixed = keras.Model(model.input, keras.layers.Dense(5)(keras.layers.Flatten()(model.output)))
    with pytest.raises(
        ConfigError,
        match="m.keras cannot be evaluated so: .*cannot be used for images of 48x48 pixels: ",
    ):
        graph.rebuilt(fixed, 48, "float32", "m.keras")
