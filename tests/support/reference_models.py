"""The official code's outputs in tests/reference, and our models with the same weights."""

import json
from pathlib import Path

import numpy as np

import keras_cvt
from keras_cvt import checkpoints

FOLDER = Path(__file__).parents[1] / "reference"
NAMES = ("tiny", "tiny-kv-stride-1", "tiny-linear", "tiny-mixed", "tiny-no-cls")
SIZES = ("square", "wide", "odd")


def stages(name):
    return keras_cvt.stages_from_spec(json.loads((FOLDER / name / "spec.json").read_text()))


TINY = stages("tiny")
# What tests/keras_cvt/conftest.py writes of it.
FILES = (
    "official.pth",
    "official.safetensors",
    "huggingface.safetensors",
    "model.keras",
    "model.weights.h5",
)


def state_dict(name):
    """The official weights of a reference model: official names, torch's layout."""
    with checkpoints.read(FOLDER / "tiny" / "official.pth") as tiny:
        weights = dict(tiny)
    for stage, config in enumerate(stages(name)):
        if not config.class_token:
            weights.pop(f"stage{stage}.cls_token", None)
        if config.projection == "linear":
            unused = [k for k in weights if k.startswith(f"stage{stage}.") and ".conv_proj_" in k]
            for key in unused:
                del weights[key]
        if not config.qkv_bias:
            for key in [
                k for k in weights if k.startswith(f"stage{stage}.") and k.endswith(_QKV_BIASES)
            ]:
                del weights[key]
    own = FOLDER / name / "weights.npz"
    if own.exists():
        weights.update(np.load(own))
    return weights


_QKV_BIASES = tuple(f".attn.proj_{letter}.bias" for letter in "qkv")


def checkpoint(name, folder):
    """A safetensors file of the reference weights."""
    path = folder / f"{name}.safetensors"
    checkpoints.write_safetensors(path, state_dict(name))
    return path


def tiny(stages=TINY, **options):
    """A model like the reference's, by default the first one, with new weights or those asked for."""
    options = {"classes": 10, "classifier_activation": None, **options}
    return keras_cvt.CvT(stages, **{"input_shape": (None, None, 3), **options})


def model(name, folder, **options):
    """A reference model with the official weights."""
    return tiny(stages(name), weights=checkpoint(name, folder), **options)


def images(size):
    return np.load(FOLDER / "images.npz")[size]


def outputs(name):
    return dict(np.load(FOLDER / name / "outputs.npz"))
