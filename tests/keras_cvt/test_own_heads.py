"""The examples of docs/own-heads.md run as they are, and what they save works everywhere."""

from __future__ import annotations

import json
import re

import keras
import numpy as np
import pytest
from backend import numpy
from programs import CHECKOUT
from small_models import TINY

import keras_cvt
from keras_cvt import architecture
from keras_cvt.cli import main
from keras_cvt.export.verify import PICTURE
from keras_cvt.structure import structure_of

EXAMPLES = re.findall(
    r"```python\n(.*?)```", (CHECKOUT / "docs/own-heads.md").read_text(encoding="utf-8"), re.DOTALL
)
NAMES = {"flat": {"cat", "dog", "bird"}, "nested": {"sharp", "indoors", "person"}}


@pytest.mark.parametrize("form", NAMES)
def test_the_usual_forms(form, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(architecture.VARIANTS, "CvT13", TINY)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    known = {
        "images": rng.uniform(0, 255, (4, 224, 224, 3)).astype("float32"),
        "labels": np.array([0, 1, 2, 0]),
        "tags": rng.integers(0, 2, (4, 3)),
    }
    (code,) = [example for example in EXAMPLES if f"{form}.keras" in example]
    keras.utils.set_random_seed(0)
    exec(code.replace('weights="imagenet"', "weights=None"), known)
    assert len(known["model"].trainable_variables) == 2

    loaded = keras.saving.load_model(f"{form}.keras")
    assert len(loaded.trainable_variables) == 2
    image = keras_cvt.load_image(PICTURE, 224)[np.newaxis].astype("float32")
    x = image if form == "nested" else keras_cvt.preprocess_input(image)
    expected = numpy(loaded(x, training=False))[0]
    np.testing.assert_allclose(
        numpy(keras_cvt.deploy(loaded)(x, training=False))[0], expected, atol=1e-5
    )
    capsys.readouterr()
    assert main(["predict", "--model", f"{form}.keras", str(PICTURE), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert {each["label"] for each in result["classes"]} == NAMES[form]
    scores = [each["score"] for each in result["classes"]]
    np.testing.assert_allclose(scores, sorted(expected, reverse=True), atol=1e-5)
    output = str(tmp_path / "where.png")
    assert main(["explain", "--model", f"{form}.keras", str(PICTURE), "--output", output]) == 0


def test_thawing():
    backbone = keras_cvt.CvT(TINY, include_top=False, input_shape=(32, 32, 3))
    count = len(backbone.trainable_variables)
    for stage in structure_of(backbone).stages:
        for block in stage.blocks:
            block.attn.proj_q.trainable = False
    backbone.get_layer("stage0_patch_embed").trainable = False
    assert len(backbone.trainable_variables) < count
    (code,) = [example for example in EXAMPLES if example.startswith("for layer in")]
    exec(code, {"backbone": backbone})
    assert len(backbone.trainable_variables) == count
