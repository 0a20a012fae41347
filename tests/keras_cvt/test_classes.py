"""Class names in a model: where they stay, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from backend import numpy
from small_models import images, tiny

import keras_cvt
from keras_cvt import imagenet
from keras_cvt.classes import labels_of
from keras_cvt.structure import structure_of

NAMES = ("ant", "bee", "cat", "dog", "élan")


@pytest.fixture(scope="module")
def model():
    return keras_cvt.with_class_names(tiny(), NAMES)


def test_names_stay_in_a_model_and_change_no_number(model, tmp_path):
    plain = tiny()
    named = keras_cvt.with_class_names(plain, NAMES)
    assert keras_cvt.class_names(plain) is None and keras_cvt.class_names(named) == NAMES
    x = images(32, 48)
    np.testing.assert_array_equal(numpy(named(x)), numpy(plain(x)))
    assert [w.path for w in named.weights] == [w.path for w in plain.weights]
    assert structure_of(named).classifier is structure_of(named).head.dense is plain.layers[-1]
    named.save(tmp_path / "named.keras")
    loaded = keras.saving.load_model(tmp_path / "named.keras")
    for other in (
        loaded,
        keras.models.clone_model(loaded),
        type(loaded).from_config(loaded.get_config()),
        keras_cvt.deploy(loaded),
    ):
        assert keras_cvt.class_names(other) == NAMES
    loaded.quantize("int8")
    assert keras_cvt.class_names(loaded) == NAMES
    # A weights file knows nothing of names, with them or without.
    named.save_weights(tmp_path / "named.weights.h5")
    other = tiny()
    other.load_weights(tmp_path / "named.weights.h5")
    np.testing.assert_array_equal(numpy(other(x)), numpy(plain(x)))
    other = tiny(weights=tmp_path / "named.keras")
    np.testing.assert_array_equal(numpy(other(x)), numpy(plain(x)))


def test_names_are_found_behind_what_keeps_the_classes_and_not_behind_another_head(model):
    other = keras_cvt.with_class_names(model, [*"vwxyz"])
    assert keras_cvt.class_names(other) == (*"vwxyz",)
    assert len(other.layers) == len(model.layers)  # the new names take the place of the old
    inputs = keras.Input((32, 48, 3))
    scores = model(inputs)
    assert keras_cvt.class_names(keras.Model(inputs, keras.ops.softmax(scores))) == NAMES
    dropped = keras.layers.Softmax()(keras.layers.Dropout(0.5)(scores))
    assert keras_cvt.class_names(keras.Model(inputs, dropped)) == NAMES
    assert keras_cvt.class_names(keras.Model(inputs, keras.layers.Dense(5)(scores))) is None
    assert keras_cvt.class_names(keras.Model(inputs, keras.ops.flip(scores, axis=1))) is None
    assert keras_cvt.class_names(keras.Model(inputs, [scores, scores])) is None


def test_probabilities_keep_their_precision():
    inputs = keras.Input((5,))
    outputs = keras_cvt.ClassNames(NAMES, dtype="mixed_float16")(inputs)
    x = np.float32([[0.1, 0.2, 0.3, 0.15, 0.25]])
    np.testing.assert_array_equal(numpy(keras.Model(inputs, outputs)(x)), x)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (NAMES[:4], "each of the 5 outputs. Received 4"),
        ("abcde", "Received 'abcde'"),
        ((*NAMES[:4], "ant"), "0 and 4 are both 'ant'"),
        ((*NAMES[:4], ""), "one line of text in UTF-8. Received ''"),
        ((*NAMES[:4], "a\nb"), "one line of text"),
        ((*NAMES[:4], "\udcff"), "one line of text"),
        (range(5), "one line of text in UTF-8. Received 0"),
        ((*NAMES[:4], "\x1b[31m"), "one line of text"),
        # Readers of lists of names strip the lines: "cat " would become "cat".
        ((*NAMES[:4], "e "), "must not begin or end with a space. Received 'e '"),
    ],
)
def test_names_that_are_refused(model, names, said):
    with pytest.raises(ValueError, match=said):
        keras_cvt.with_class_names(model, names)


def test_models_that_are_refused(model):
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="call the layer keras_cvt.ClassNames"):
        keras_cvt.with_class_names(Own(), NAMES)
    with pytest.raises(ValueError, match="one output"):
        keras_cvt.with_class_names(keras.Model(model.inputs, model.outputs * 2), NAMES)


def test_labels_of_a_model(model):
    assert labels_of(model)[4] == ("4", "élan")
    assert labels_of(model, [*"vwxyz"])[0] == ("0", "v")
    some = ("n02123045", "n07753592", "n01440764", "n15075141", "n02012849")
    assert labels_of(keras_cvt.with_class_names(model, some))[0] == ("n02123045", "tabby")
    for names, count in (("ab", 2), (None, "no")):
        with pytest.raises(ValueError, match=f"5 outputs, but there are {count} class names"):
            labels_of(tiny(), names)
    thousand = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1000)])
    assert labels_of(thousand) == [*zip(imagenet.synsets(), imagenet.labels(), strict=True)]
