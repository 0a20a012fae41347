"""decode_predictions, and the names of the classes."""

import ast
import json
import pathlib
import sys

import keras
import numpy as np
import pytest

from keras_cvt import imagenet
from keras_cvt.imagenet import (
    decode_predictions,
    labels,
    synsets,
)


def test_decode_has_the_form_of_keras_applications(monkeypatch):
    theirs = keras.applications.imagenet_utils.decode_predictions
    index = {str(i): list(pair) for i, pair in enumerate(zip(synsets(), labels(), strict=True))}
    # So that theirs does not download its own list, in which the names are spelt differently.
    monkeypatch.setattr(sys.modules[theirs.__module__], "CLASS_INDEX", index)
    preds = np.random.default_rng(0).normal(size=(3, 1000)).astype("float32")
    for top in (1, 5, 1000):
        assert decode_predictions(preds, top) == theirs(preds, top=top)
    assert decode_predictions(preds) == theirs(preds)


def test_decode():
    preds = np.zeros((2, 1000), "float32")
    preds[0, [281, 0, 999]] = [0.5, 0.25, 0.125]
    preds[1, [134, 517]] = [0.25, 0.75]
    result = decode_predictions(preds, top=3)
    assert result[0] == [
        ("n02123045", "tabby", 0.5),
        ("n01440764", "tench", 0.25),
        ("n15075141", "toilet tissue", 0.125),
    ]
    assert result[1][:2] == [("n03126707", "crane", 0.75), ("n02012849", "crane", 0.25)]
    assert isinstance(result, list) and isinstance(result[0], list)
    for entry in result[0]:
        assert type(entry) is tuple
        assert [type(part) for part in entry] == [str, str, float]
    json.dumps(result)
    assert decode_predictions(preds[:0]) == []


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8"])
def test_decode_ties_stay_in_label_order(dtype):
    preds = np.zeros((1, 1000), dtype)  # of unsigned integers, -0 would be the smallest
    preds[0, [700, 300]] = 2
    ids = [synset for synset, _, _ in decode_predictions(preds, top=5)[0]]
    assert ids == [synsets()[i] for i in (300, 700, 0, 1, 2)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decode_tensor(dtype):
    preds = np.random.default_rng(0).permutation(1000).reshape(1, 1000) / 1000
    tensor = keras.ops.cast(keras.ops.convert_to_tensor(preds.astype("float32")), dtype)
    best = int(preds.argmax())
    ((synset, name, score),) = decode_predictions(tensor, top=1)[0]
    assert type(score) is float
    if dtype == "float32":
        assert (synset, name) == (synsets()[best], labels()[best])
        assert score == float(np.float32(0.999))
    else:
        assert score == 1.0


@pytest.mark.parametrize("shape", [(1000,), (1, 999), (1, 1001), (1, 1, 1000), (1000, 1)])
def test_decode_wrong_shape(shape):
    for preds in (np.zeros(shape), keras.ops.zeros(shape)):
        with pytest.raises(ValueError, match="shape=" + str(shape).replace("(", r"\(")[:-1]):
            decode_predictions(preds)


@pytest.mark.parametrize("top", [0, -1, 1001])
def test_decode_wrong_top(top):
    with pytest.raises(ValueError, match=f"top={top}"):
        decode_predictions(np.zeros((1, 1000)), top=top)


def test_decode_top_must_be_an_integer():
    with pytest.raises(TypeError):
        decode_predictions(np.zeros((1, 1000)), top=2.5)


def test_labels_known():
    known = {
        0: ("n01440764", "tench"),
        65: ("n01751748", "sea snake"),
        134: ("n02012849", "crane"),
        207: ("n02099601", "golden retriever"),
        281: ("n02123045", "tabby"),
        285: ("n02124075", "Egyptian cat"),
        388: ("n02510455", "giant panda"),
        517: ("n03126707", "crane"),
        817: ("n04285008", "sports car"),
        999: ("n15075141", "toilet tissue"),
    }
    assert {i: (synsets()[i], labels()[i]) for i in known} == known


def test_labels_form():
    assert len(labels()) == len(synsets()) == 1000
    assert isinstance(labels(), tuple) and isinstance(synsets(), tuple)
    assert len(set(synsets())) == 1000
    assert list(synsets()) == sorted(synsets())
    assert all(len(s) == 9 and s[0] == "n" and s[1:].isdigit() for s in synsets())
    assert all(n and n == n.strip() and not set(n) & set("_,\t#") for n in labels())
    twice = {name for name in labels() if labels().count(name) > 1}
    assert twice == {"crane", "maillot"}


def test_label_file_names_its_source_and_license():
    text = (pathlib.Path(imagenet.__file__).parent / "images" / "imagenet_labels.txt").read_text(
        "utf-8"
    )
    head = "".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("timm", "Ross Wightman", "Apache License 2.0", "WordNet", "Princeton University"):
        assert word in head


def test_modules_import_only_numpy():
    """But for the two that are TensorFlow's, and which none of the others imports."""
    names = set()
    for file in (pathlib.Path(imagenet.__file__).parent / "images").glob("*.py"):
        if file.stem in ("graph", "graph_decode"):
            continue
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
                assert "graph" not in node.module
    assert names - sys.stdlib_module_names == {"keras_cvt", "numpy"}
