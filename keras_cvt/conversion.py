"""From any checkpoint to any other: `keras-cvt convert`."""

from __future__ import annotations

import dataclasses
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cvt import checkpoints, models
from keras_cvt._files import check_file, read_json, replacing
from keras_cvt._model_files import load_model
from keras_cvt.architecture import (
    VARIANTS,
    StageConfig,
    as_stages,
    stages_from_spec,
    widths_and_depths,
)
from keras_cvt.weights import Weights, describe, names
from keras_cvt.weights.formats import KEYS, SUFFIXES


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    keys: str = "official",
    stages: Sequence[StageConfig | Mapping[str, Any]] | None = None,
) -> None:
    """Writes a checkpoint in another format. Weights keep their bits (float64 only in `.safetensors`).

    A `.keras` file has its model with it, which is kept as it is. Other files have weights alone: a
    `.keras` file made of them computes what the published models do (QuickGELU, softmax), for images
    of any size.

    Args:
        source: any file that `checkpoints.read` reads, with official, Hugging Face's or Keras' names.
        destination: a `.safetensors` file, which PyTorch opens, or a `.weights.h5` or `.keras` file
            of this library. A file that is there already is replaced when the new one is complete.
        keys: the names in a `.safetensors` file: "official" or "huggingface".
        stages: the model's configuration, to make a `.weights.h5` or `.keras` file. Not needed for a
            `.keras` source, for the published variants, which are recognised, or with Hugging Face's
            `config.json` beside the source, which goes before the published variants. The source must
            agree with it.

    Raises:
        ValueError: for a destination of another kind, a configuration that is not known, or a deployed
            or quantized model, which has weights that no other library knows.
        FileNotFoundError: for a source that is not there.
        CheckpointError: for a damaged source, or one that is no CvT.
    """
    source, destination = Path(source), Path(destination)
    if not destination.name.endswith(SUFFIXES):
        raise ValueError(f"{destination} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}.")
    if keys not in KEYS:
        raise ValueError(f"`keys` must be one of {KEYS}. Received {keys!r}.")
    check_file(destination)
    weights = Weights(source)
    if stages is not None:
        stages = as_stages(stages)
        weights.check_stages(stages)
    if destination.suffix == ".safetensors":
        _check_publishable(weights)
        checkpoints.write_safetensors(destination, _TorchTensors(weights, keys), {"format": "pt"})
        return

    if weights.convention == "keras" and zipfile.is_zipfile(source):
        if source.suffix != ".keras":
            raise ValueError(f"{source} is a model of Keras: its name must end in .keras.")
        model = load_model(source)
    else:
        stages = _stages(weights) if stages is None else stages
        norm, classes = "norm.weight" in weights, weights.classes
        pooling = "token" if f"stage{len(stages) - 1}.cls_token" in weights else "avg"
        model = models.CvT(
            _with_position_sizes(stages, weights),
            include_top=classes is not None,
            weights=weights,
            input_shape=(None, None, weights.shape("stage0.patch_embed.proj.weight")[2]),
            classes=classes or 1000,
            pooling=pooling if norm and classes is None else None,
        )
    with replacing(destination) as temporary:
        if destination.suffix == ".keras":
            model.save(temporary)
        else:
            model.save_weights(temporary)


class _TorchTensors(Mapping[str, np.ndarray]):
    """Weights under a convention's names and in torch's layout, each read when it is asked for."""

    def __init__(self, weights: Weights, keys: str):
        self.weights = weights
        rename = names.huggingface if keys == "huggingface" else str
        self.names = {rename(name): name for name in weights}
        # PyTorch's BatchNorm counts its batches, and a strict load asks for the count.
        self.counts = {
            rename(name.replace("running_mean", names.IGNORED_SUFFIX))
            for name in weights
            if name.endswith(".running_mean")
        }

    def __getitem__(self, key: str) -> np.ndarray:
        if key in self.counts:
            return np.zeros((), "int64")
        return names.to_torch(self.names[key], self.weights[self.names[key]])

    def __iter__(self) -> Iterator[str]:
        yield from self.names
        yield from self.counts

    def __len__(self) -> int:
        return len(self.names) + len(self.counts)


def _check_publishable(weights: Weights) -> None:
    """Refuses weights that have an official name without being what the official code has there."""
    unnamed = [name for name in weights if "/" in name]  # what Keras adds has no official name
    foreign = [name for name in unnamed if not name.startswith(("stage", "norm/", "head/"))]
    if foreign:
        raise ValueError(
            f"{weights.path} has weights beside its CvT, such as {foreign[0]}, which have no official "
            "name. Convert the CvT alone."
        )
    deployed = any(name.endswith(".conv.bias") for name in weights)
    if deployed or unnamed:
        raise ValueError(
            f"{weights.path} is {'deployed' if deployed else 'quantized'}: its weights mean nothing to "
            "other libraries. Convert the model as it was before."
        )


def _stages(weights: Weights) -> Sequence[StageConfig]:
    found = weights.architecture()
    known = next((s for s in VARIANTS.values() if widths_and_depths(s) == found), None)
    spec = weights.path.with_name("config.json")
    if spec.is_file():
        # Strides may be others than the variant's, which has weights of the same shapes.
        try:
            stages = stages_from_spec(read_json(spec))
        except ValueError:
            if known is None:
                raise
        else:
            if known is None or widths_and_depths(stages) == found:
                return stages
    if known is not None:
        return known
    raise ValueError(
        f"{weights.path} is {describe(found)}, which is no published variant: heads, strides "
        "and paddings can't be seen in a checkpoint. Give its configuration (--spec FILE: a list of "
        "stages, the official options or Hugging Face's config.json, as JSON)."
    )


def _with_position_sizes(stages, weights: Weights) -> list[StageConfig]:
    """Stages whose position embeddings, if any, have the size of their weights."""
    stages = as_stages(stages)
    for i, stage in enumerate(stages):
        if stage.position_embedding and (key := f"stage{i}.pos_embed") in weights:
            size = weights.shape(key)[1:3]
            stages[i] = dataclasses.replace(stage, position_embedding=size)
    return stages
