"""README and docs/: their Python runs as it stands there, their links lead somewhere, and the pages of
the reference have everything."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from programs import CHECKOUT
from sklearn.datasets import load_sample_image
from small_models import TINY

import keras_cvt
from keras_cvt import architecture, weights
from keras_cvt.cli import main

PAGES = [CHECKOUT / "README.md", *sorted(CHECKOUT.glob("docs/**/*.md"))]

# Tested where their other half is: with a server, and with what the models answer.
ELSEWHERE = {"docs/own-heads.md", "docs/export/savedmodel.md", "docs/kerashub.md"}

SLOW = {
    *("docs/index.md", "docs/fine-tuning.md"),  # they train
    *("docs/export/onnx.md", "docs/export/openvino.md"),
    "docs/scale-out.md",  # it starts Ray
}

# For a run of seconds.
SHORTER = {"epochs=5": "epochs=1", "steps_per_epoch=100, epochs=10": "steps_per_epoch=1, epochs=1"}
SHORTER |= {"batch(64,": "batch(2,", "total_steps=1000, warmup_steps=100": "total_steps=2"}


def name_of(page):
    return page.relative_to(CHECKOUT).as_posix()


def examples(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


WITH_EXAMPLES = [page for page in PAGES if examples(page) and name_of(page) not in ELSEWHERE]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file in place of the published weights, of a small model in place of CvT-13."""
    path = tmp_path_factory.mktemp("published") / "cvt13.weights.h5"
    keras.utils.set_random_seed(0)
    keras_cvt.CvT(TINY).save_weights(path)
    return path


@pytest.fixture
def place(published, tmp_path, monkeypatch):
    """A folder with a photo, where CvT-13 is small and its weights are there."""
    find = weights.find
    given = {"imagenet": published}
    monkeypatch.setattr(weights, "find", lambda w, *args: find(given.get(w, w), *args))
    monkeypatch.setitem(architecture.VARIANTS, "CvT13", TINY)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(load_sample_image("china.jpg")).save("cat.jpg")
    return tmp_path


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow) if name_of(p) in SLOW else p for p in WITH_EXAMPLES],
    ids=name_of,
)
def test_examples_run_in_their_order(page, place, capsys):
    rng = np.random.default_rng(0)
    for file_format, output in (("onnx", "cvt13.onnx"), ("openvino", "cvt13.xml")):
        if any(output in code for code in examples(page)):
            keras_cvt.CvT13(weights="imagenet").save("cvt13.keras")
            options = ["--format", file_format, "--output", output]
            assert main(["export", "--model", "cvt13.keras", *options]) == 0
    pictures = rng.integers(0, 256, (4, 240, 250, 3), "uint8")
    given = {
        "images": rng.uniform(0, 255, (4, 224, 224, 3)).astype("float32"),
        "labels": np.array([0, 1, 2, 0]),
        "examples": tf.data.Dataset.from_tensor_slices((pictures, np.eye(37, dtype="f4")[:4])),
    }
    known = {}
    for code in examples(page):
        known |= given
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        exec(compile(code, name_of(page), "exec"), known)
    if page.name == "README.md":
        shapes = dict(re.findall(r"'(P\d)': (\(.*?\))", page.read_text(encoding="utf-8")))
        sizes = {name: shape.split(", ")[:3] for name, shape in shapes.items()}
        said = {name: str(tuple(m.shape)).split(", ")[:3] for name, m in known["pyramid"].items()}
        assert said == sizes  # the channels are the small model's
        assert keras_cvt.class_names(keras.saving.load_model("mine.keras"))[0] == "cat"
    if "probabilities" in known:  # of the export's pages
        x = keras_cvt.preprocess_input(keras_cvt.load_image("cat.jpg")[np.newaxis])
        expected = keras_cvt.CvT13(weights="imagenet").predict(x, verbose=0)
        np.testing.assert_allclose(known["probabilities"], expected, atol=1e-5)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}
            assert anchor in anchors, link


def test_the_reference_has_all_public_names():
    page = (CHECKOUT / "docs/api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: keras_cvt\.(\w+)$", page, re.MULTILINE)
    assert sorted(named) == sorted(keras_cvt.__all__)
    for name in keras_cvt.__all__:
        assert getattr(keras_cvt, name).__doc__, name


def test_readme_is_short():
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
