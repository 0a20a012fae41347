"""What a `.keras` file says of its model, compared with the model that takes its weights.

The weights of two models can agree in every shape while the models compute different functions: other
heads, strides, paddings or activations. A `.keras` file states them all. What may differ is left out:
image size, dropout and drop path, dtype policies, the classifier's activation, flags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_cvt import layers
from keras_cvt._keras_internal import calls
from keras_cvt.architecture import StageConfig
from keras_cvt.structure import Structure

Configs = Mapping[str, Mapping[str, Any]]
"""The configs of a CvT's layers, by the names that `CvT` gives to them."""

_KINDS = ("ConvEmbedding", "CvTBlock")
_NAME = re.compile(r"stage(\d+)_(?:patch_embed|blocks_\d+)")
# Options of the layers, and what `StageConfig` or `CvT` call them.
_OF_AN_EMBEDDING = {
    "kernel_size": "patch_size",
    "strides": "patch_stride",
    "padding": "patch_padding",
}
_OF_A_BLOCK = {
    "num_heads": "num_heads",
    "projection": "projection",
    "kernel_size": "kernel_qkv",
    "strides_q": "stride_q",
    "padding_q": "padding_q",
    "strides_kv": "stride_kv",
    "padding_kv": "padding_kv",
    "use_bias": "qkv_bias",
    "activation": "activation",
    "deployed": "deployed",
}
_OF_CONVOLUTIONS = {"kernel_size", "strides_q", "padding_q", "strides_kv", "padding_kv"}
# What can stand between the last block and a classifier without changing what that reads.
_PASSING = ("Dropout", "Flatten", "Identity", "InputLayer")


def of_file(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The configs of the CvT's layers in the `config.json` of a `.keras` file."""
    return {
        layer["config"]["name"]: layer["config"]
        for layer in _layers(config)
        if layer["class_name"] in _KINDS and _NAME.fullmatch(layer["config"]["name"])
    }


def class_names(config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """The names of a classifier's classes in the `config.json` of a `.keras` file.

    Args:
        config: What the file has.
        classes: How many the classifier has.

    Returns:
        None if there are none, or several that differ.
    """
    found = {
        tuple(layer["config"]["class_names"])
        for layer in _layers(config)
        if layer["class_name"] == "ClassNames"
    }
    fitting = [names for names in found if len(names) == classes]
    return fitting[0] if len(fitting) == 1 else None


def of_stages(stages: Sequence[StageConfig], **options: Any) -> dict[str, dict[str, Any]]:
    """The same of the model that `CvT` makes of these stages.

    Args:
        stages: Of the model.
        options: Of all its blocks, such as `activation`, in terms of their configs.
    """
    configs: dict[str, dict[str, Any]] = {}
    for i, stage in enumerate(stages):
        configs[f"stage{i}_patch_embed"] = {
            "kernel_size": stage.patch_size,
            "strides": stage.patch_stride,
            "padding": stage.patch_padding,
        }
        for j, arguments in enumerate(stage.block_args()):
            configs[f"stage{i}_blocks_{j}"] = {**arguments, "deployed": False, **options}
    return configs


def of_model(structure: Structure) -> dict[str, dict[str, Any]]:
    """The same of a model."""
    return {
        name: layer.get_config()
        for name, layer in structure.parts()
        if isinstance(layer, (layers.ConvEmbedding, layers.CvTBlock))
    }


def differences(file: Configs, model: Configs) -> list[str]:
    """What makes the function of a file's model another than that of a model, in words.

    Returns:
        Such as "num_heads of stage 2: the file has 6, the model 3", an entry for each option and stage;
        where the blocks of a stage differ among themselves, with the value of each block.
    """
    found: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
    for name in [name for name in model if name in file]:
        options = _OF_AN_EMBEDDING if name.endswith("_patch_embed") else _OF_A_BLOCK
        ours, theirs = model[name], file[name]
        linear = ours.get("projection") == theirs.get("projection") == "linear"
        for option, called in options.items():
            if not (option in theirs and option in ours) or (linear and option in _OF_CONVOLUTIONS):
                continue
            stage = _NAME.fullmatch(name)[1]
            values = _plain(theirs[option]), _plain(ours[option])
            found.setdefault((stage, called), []).append(values)
    return [
        f"{called} of stage {stage}: the file has {_shown(theirs)}, the model {_shown(ours)}"
        for (stage, called), values in found.items()
        for theirs, ours in [zip(*values, strict=True)]
        if theirs != ours
    ]


def read_by_classifier(config: Mapping[str, Any], name: str) -> list[str] | None:
    """What the classifier of a file's model reads: the kinds of the layers between the last block and
    the classifier, of those that change it.

    Args:
        config: The `config.json` of a `.keras` file.
        name: Of the classifier's layer.

    Returns:
        Backwards from the classifier; None where that can't be seen, as where it stands in another
        graph than the blocks.
    """
    for graph in _dicts(config):
        found = {
            layer.get("name"): layer
            for layer in graph.get("layers") or ()
            if isinstance(layer, Mapping) and layer.get("inbound_nodes")
        }
        if found.get(name, {}).get("class_name") == "Dense":
            return _until_block(_kinds_before(found, name))
    return None


def _kinds_before(found: Mapping[str, Mapping[str, Any]], name: str) -> Iterator[str]:
    for _ in found:
        inputs = _dicts(found[name]["inbound_nodes"])
        name = next((each["keras_history"][0] for each in inputs if "keras_history" in each), None)
        if name not in found:
            return
        yield found[name]["class_name"]


def read_by(structure: Structure) -> list[str] | None:
    """The same of a model's own classifier."""
    return _until_block(_operations_before(structure))


def _operations_before(structure: Structure) -> Iterator[str]:
    made_by = {id(tensor): call for call in calls(structure.graph) for tensor in call.outputs}
    call = next((c for c in made_by.values() if c.operation is structure.classifier), None)
    while call is not None and call.inputs:
        call = made_by.get(id(call.inputs[0]))
        if call is not None:
            yield type(call.operation).__name__


def _until_block(kinds: Iterator[str]) -> list[str] | None:
    found = []
    for kind in kinds:
        if kind == "CvTBlock":
            return found
        if kind not in _PASSING:
            found.append(kind)
    return None


def _layers(config: Any) -> Iterator[Mapping[str, Any]]:
    """The descriptions of all layers, at any depth."""
    for each in _dicts(config):
        described = each.get("config")
        if isinstance(described, Mapping) and "name" in described and "class_name" in each:
            yield each


def _dicts(value: Any) -> Iterator[Mapping[str, Any]]:
    """All dicts in what JSON gave, outer ones first, in order."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield value
            waiting += reversed(list(value.values()))
        elif isinstance(value, (list, tuple)):
            waiting += reversed(value)


def _plain(value: Any) -> Any:
    """A value of a config, the same whether it comes from a file or from a layer: the name of a
    function, without the package that has registered it."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "function":
            return _plain(value["config"])
        return json.dumps({k: _plain(v) for k, v in value.items() if k in ("class_name", "config")})
    return value.rpartition(">")[2] if isinstance(value, str) else value


def _shown(values: tuple[Any, ...]) -> str:
    """One value of all blocks, or that of each."""
    return str(values[0] if len(set(values)) == 1 else values)
