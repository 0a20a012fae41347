"""Checkpoints of models that something has wrapped: compiled, distributed, averaged, trained."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import reference_models
from backend import numpy
from checkpoint_files import tensor, torch_save
from reference_models import tiny

from keras_cvt import checkpoints, weights
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.weights import names


def official():
    return reference_models.state_dict("tiny")


def huggingface():
    return {names.huggingface(name): value for name, value in official().items()}


def base_model():
    """As Hugging Face saves a CvtModel, which has neither "cvt." nor a classifier."""
    return {
        name.removeprefix("cvt."): value
        for name, value in huggingface().items()
        if name.startswith("cvt.")
    }


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def compiled_blocks(state):
    """As where each block was compiled, or checkpointed, by itself."""
    return {
        name.replace(".attn.", "._orig_mod.attn.").replace(
            ".mlp.", "._fsdp_wrapped_module.mlp."
        ): value
        for name, value in state.items()
    }


COUNT = {"n_averaged": np.array(3)}

# prefix as it is found: names of the file
WRAPPED = {
    "torch.compile": ("", under("_orig_mod.", official())),
    "DDP": ("module.", under("module.", official())),
    "compiled, then DDP": ("module.", under("module._orig_mod.", official())),
    "Lightning": ("model.", under("model.", official())),
    "Lightning, compiled": ("net.", under("net._orig_mod.", official())),
    "any name": ("task.my_own.encoder.", under("task.my_own.encoder.", official())),
    "SWA": ("module.", {**COUNT, **under("module.", official())}),
    "SWA in Lightning": (
        "average.module.",
        {**under("average.", COUNT), **under("average.module.", official())},
    ),
    "blocks": ("", compiled_blocks(official())),
    "Hugging Face": ("model.", under("model.", huggingface())),
    "Hugging Face, DDP": ("module.", under("module.", huggingface())),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_any_prefix_is_found(name, tmp_path):
    prefix, state = WRAPPED[name]
    checkpoints.write_safetensors(tmp_path / "wrapped.safetensors", state)
    found = weights.Weights(tmp_path / "wrapped.safetensors")
    assert found.prefix == prefix
    expected = {k for k in official() if not k.endswith(names.IGNORED_SUFFIX)}
    assert set(found) == expected
    assert [name.rpartition(".")[2] for name in found.ignored] == list(COUNT) * ("SWA" in name)


@pytest.mark.parametrize("name", ["SWA", "Lightning, compiled", "Hugging Face"])
def test_wrapped_models_give_the_official_logits(name, tmp_path, caplog):
    state = {k: tensor(v) for k, v in WRAPPED[name][1].items()}
    beside = {"epoch": 3, "optimizer_states": [{"state": {0: {"exp_avg": tensor(np.ones(2))}}}]}
    torch_save(tmp_path / "last.ckpt", {"state_dict": state, **beside})
    with caplog.at_level(logging.WARNING, "keras_cvt"):
        model = tiny(weights=tmp_path / "last.ckpt")
    logits = numpy(model(reference_models.images("odd")))
    assert np.abs(logits - reference_models.outputs("tiny")["odd_logits"]).max() < 1e-4
    told = "no weights of a model are in n_averaged; left out"
    assert (told in caplog.text) == (name == "SWA") and len(caplog.records) == (name == "SWA")


def test_a_base_model_of_hugging_face(tmp_path):
    for prefix in ("", "backbone."):
        checkpoints.write_safetensors(tmp_path / "b.safetensors", under(prefix, base_model()))
        model = tiny(include_top=False, weights=tmp_path / "b.safetensors")
        for name, variable in weights.named_variables(model).items():
            expected = weights.Weights(tmp_path / "b.safetensors")[name]
            np.testing.assert_array_equal(numpy(variable), expected)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {**under("student.", official()), **under("teacher.", official())},
            "2 CvTs: under 'student.' and 'teacher.'. Save the one",
        ),
        ({**official(), **under("ema.", official())}, "2 CvTs: under no prefix and 'ema.'"),
        (
            {**under("student.", official()), **under("teacher.", huggingface())},
            "2 CvTs: under 'student.' and 'teacher.cvt.'",
        ),
        (
            {**official(), "stage0._orig_mod.patch_embed.proj.weight": np.zeros(1)},
            "stage0._orig_mod.patch.* and stage0.patch_embed.proj.weight are both stage0.patch",
        ),
    ],
)
def test_what_is_ambiguous_is_refused(state, message, tmp_path):
    checkpoints.write_safetensors(tmp_path / "two.safetensors", state)
    with pytest.raises(CheckpointError, match=message) as caught:
        tiny(weights=tmp_path / "two.safetensors")
    assert "\n" not in str(caught.value) and "two.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    "beside",
    [
        {"criterion.weight": np.zeros(10)},
        {"temperature": np.array(0.5)},  # a scalar that may well change the function
        {"n_averaged": np.zeros(3)},  # no scalar
        {"model.extra.weight": np.zeros(3)},
        {"modelhead.weight": np.zeros(3)},
        {"stage2.cls_token": np.zeros(3)},  # a name of the CvT's, but not its tensor
    ],
)
def test_what_lies_beside_is_named(beside, tmp_path):
    state = {**under("model.", official()), **beside}
    checkpoints.write_safetensors(tmp_path / "more.safetensors", state)
    (name,) = (name.removeprefix("model.") for name in beside)
    with pytest.raises(ValueError, match=f"1 of the file not in the model .{name}"):
        tiny(weights=tmp_path / "more.safetensors")


def test_a_head_beside_the_cvt_is_not_its_head(tmp_path):
    """As where a model has a backbone and a head of its own: between them there may be anything."""
    state = under("backbone.", official())
    heads = {name: state.pop(f"backbone.{name}") for name in ("head.weight", "head.bias")}
    checkpoints.write_safetensors(tmp_path / "own.safetensors", {**state, **heads})
    with pytest.raises(ValueError, match="has no classifier. Use include_top=False"):
        tiny(weights=tmp_path / "own.safetensors")
    tiny(include_top=False, weights=tmp_path / "own.safetensors")
    double = {**state, "norm.weight": state["backbone.norm.weight"] + 1}
    checkpoints.write_safetensors(tmp_path / "own.safetensors", double)
    found = weights.Weights(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(found["norm.weight"], official()["norm.weight"])
