"""What a weight is called, and how it is laid out, in each kind of checkpoint.

Everything is derived from the names that Keras gives to a model's variables:

| where | name | layout of kernels |
| --- | --- | --- |
| variable | stage0_blocks_0/attn/proj_q/kernel | Keras |
| Keras file | stage0_blocks_0/attn/proj_q/0 | Keras |
| official checkpoint | stage0.blocks.0.attn.proj_q.weight | torch |
| Hugging Face | cvt.encoder.stages.0.layers.0.attention.attention.projection_query.weight | torch |

The official name is the one that all others are translated to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from keras_cvt.checkpoints import Checkpoint, CheckpointError

# Statistics of torch's BatchNorm that nothing reads where it has a fixed momentum.
IGNORED_SUFFIX = "num_batches_tracked"

# What counts steps or averages beside the weights: of torch's AveragedModel, and of EMA packages.
_COUNTERS = ("n_averaged", "num_updates", "initted", "step", "decay")

# The first weight of every CvT, in each convention. What stands before it, in whatever wrapped the
# model, stands before all of them.
_FIRST = {
    "keras": "stage0_patch_embed/proj/0",
    "official": "stage0.patch_embed.proj.weight",
    "huggingface": "encoder.stages.0.embedding.convolution_embeddings.projection.weight",
}

# The variables of each kind of layer, in the order in which Keras numbers them in a file. The kind is
# told by the layer's own name.
_VARIABLES = (
    (re.compile(r"bn"), ("gamma", "beta", "moving_mean", "moving_variance")),
    (re.compile(r"norm\d?"), ("gamma", "beta")),
    (re.compile(r"stage\d+_cls_token"), ("token",)),
    (re.compile(r"stage\d+_pos_embed"), ("embedding",)),
    (re.compile(r"conv|proj(_[qkv])?|fc[12]|head"), ("kernel", "bias")),
)
_TORCH_VARIABLES = {
    "gamma": ".weight",
    "beta": ".bias",
    "moving_mean": ".running_mean",
    "moving_variance": ".running_var",
    "kernel": ".weight",
    "bias": ".bias",
    "token": "",
    "embedding": "",
}
_QKV = {"q": "query", "k": "key", "v": "value"}
# Read forwards and backwards; ".attention.output.dense." must go before the ".output.dense." in it.
_HUGGING_FACE_PARTS = (
    (".patch_embed.proj.", ".embedding.convolution_embeddings.projection."),
    (".patch_embed.norm.", ".embedding.convolution_embeddings.normalization."),
    (".blocks.", ".layers."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    *(
        (
            f".attn.conv_proj_{q}.{ours}.",
            f".attention.attention.convolution_projection_{query}.{its}.",
        )
        for q, query in _QKV.items()
        for ours, its in (
            ("conv", "convolution_projection.convolution"),
            ("bn", "convolution_projection.normalization"),
        )
    ),
    *(
        (f".attn.proj_{q}.", f".attention.attention.projection_{query}.")
        for q, query in _QKV.items()
    ),
    (".attn.proj.", ".attention.output.dense."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
)
_HUGGING_FACE_STARTS = (
    ("stage", "cvt.encoder.stages."),
    ("norm.", "layernorm."),
    ("head.", "classifier."),
)


def official(path: str) -> str:
    """The official name of the variable with this path in a model.

    Variables that Keras adds, such as the scales of quantized kernels, have none: they keep their own.
    """
    owner, _, variable = path.rpartition("/")
    owner = re.sub(r"^(stage\d+)_blocks_(\d+)", r"\1.blocks.\2", owner)
    owner = re.sub(r"^(stage\d+)_", r"\1.", owner)
    return owner.replace("/", ".") + _TORCH_VARIABLES.get(variable, f".{variable}")


def huggingface(name: str) -> str:
    """Hugging Face's name of the weight with this official name."""
    return _rewrite(name, _HUGGING_FACE_STARTS, _HUGGING_FACE_PARTS)


def _unwrapped(checkpoint: Checkpoint) -> dict[str, str]:
    """Names without what torch puts between them where it wraps a module, such as `_orig_mod`, which
    begins with an underscore as no weight of a CvT does; each with the name that it has.

    Raises:
        CheckpointError: If two names become the same.
    """
    unwrapped: dict[str, str] = {}
    for name in checkpoint:
        plain = ".".join(part for part in name.split(".") if not part.startswith("_"))
        if plain in unwrapped:
            raise CheckpointError(
                f"{checkpoint.path}: {' and '.join(sorted([unwrapped[plain], name]))} are both {plain}."
            )
        unwrapped[plain] = name
    return unwrapped


def _is_or_ends_in(name: str, end: str) -> bool:
    return name.endswith(end) and name.removesuffix(end)[-1:] in ("", ".", "/")


def _from_huggingface(name: str) -> str:
    if name.startswith("encoder."):  # of a model that Hugging Face saved without its classifier
        name = f"cvt.{name}"
    starts, parts = (
        [(its, ours) for ours, its in table]
        for table in (_HUGGING_FACE_STARTS, _HUGGING_FACE_PARTS)
    )
    return _rewrite(name, starts, parts)


def _rewrite(name, starts, parts):
    for old, new in starts:
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    for old, new in parts:
        name = name.replace(old, new)
    return name


def _from_keras_file(name: str) -> str:
    owner, _, index = name.rpartition("/")
    layer = owner.rpartition("/")[2]
    for pattern, variables in _VARIABLES:
        if pattern.fullmatch(layer) and index.isdecimal() and int(index) < len(variables):
            return official(f"{owner}/{variables[int(index)]}")
    return name  # of a layer that is not ours: left as it is, to be named in an error


def to_torch(name: str, array: np.ndarray) -> np.ndarray:
    """A weight in torch's layout, from Keras'. `name` is the official one."""
    axes = _keras_axes(name, array.ndim)
    return array if axes is None else array.transpose(np.argsort(axes))


def _keras_axes(name: str, rank: int) -> tuple[int, ...] | None:
    """Which axes of torch's kernel are those of Keras'; None where both are the same."""
    if rank == 2:  # (out, in) -> (in, out)
        return (1, 0)
    if rank == 4 and name.endswith(".conv.weight"):  # depthwise (C, 1, h, w) -> (h, w, C, 1)
        return (2, 3, 0, 1)
    if rank == 4 and name.endswith(".weight"):  # (out, in, h, w) -> (h, w, in, out)
        return (2, 3, 1, 0)
    return None


class NamedWeights(Mapping[str, np.ndarray]):
    """The weights in a checkpoint under their official names and in Keras' layout, whatever the
    checkpoint calls them and however it lays them out. Each is read when it is asked for.

    Args:
        checkpoint: As `checkpoints.read` returns it.

    Attributes:
        convention: "official", "huggingface" or "keras": how the checkpoint names its weights.
        prefix: What stands before the weights' names in the checkpoint, such as "module."; "" for
            nothing.
        ignored: Names of the counters beside the weights, which no CvT has.

    Raises:
        CheckpointError: If it has several CvTs.
    """

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint = checkpoint
        conventions = ("keras",) if checkpoint.format == "keras-h5" else ("official", "huggingface")
        sources = _unwrapped(checkpoint)
        found = [
            (convention, name.removesuffix(_FIRST[convention]))
            for convention in conventions
            for name in sources
            if _is_or_ends_in(name, _FIRST[convention])
        ]
        if len(found) > 1:
            several = " and ".join(
                repr(prefix) if prefix else "no prefix" for prefix in sorted(p for _, p in found)
            )
            raise CheckpointError(
                f"{checkpoint.path} has the weights of {len(found)} CvTs: under {several}. Save "
                "the one that is meant alone."
            )
        self.convention, self.prefix = found[0] if found else (conventions[0], "")
        if self.convention == "huggingface" and _is_or_ends_in(self.prefix, "cvt."):
            self.prefix = self.prefix.removesuffix("cvt.")
        self.ignored = tuple(name for name in sources.values() if self._is_counter(name))
        self._sources: dict[str, str] = {}
        for name, source in sources.items():
            if source not in self.ignored and not name.endswith(IGNORED_SUFFIX):
                self._sources[self._official(name)] = source

    def _is_counter(self, name: str) -> bool:
        last = name.rpartition(".")[2]
        return last in _COUNTERS and self.checkpoint.info(name).shape in ((), (1,))

    def _official(self, name: str) -> str:
        if not name.startswith(self.prefix):
            return f"{name} beside {self.prefix!r}"  # none of the CvT's, whatever it is called
        name = name.removeprefix(self.prefix)
        if self.convention == "keras":
            return _from_keras_file(name)
        return _from_huggingface(name) if self.convention == "huggingface" else name

    def _axes(self, name: str, rank: int) -> tuple[int, ...] | None:
        return None if self.convention == "keras" else _keras_axes(name, rank)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight in Keras' layout, without reading it."""
        shape = self.checkpoint.info(self._sources[name]).shape
        axes = self._axes(name, len(shape))
        return shape if axes is None else tuple(shape[axis] for axis in axes)

    def dtype(self, name: str) -> np.dtype:
        """The dtype of a weight, without reading it."""
        return self.checkpoint.info(self._sources[name]).dtype

    def __getitem__(self, name: str) -> np.ndarray:
        array = self.checkpoint[self._sources[name]]
        axes = self._axes(name, array.ndim)
        return array if axes is None else array.transpose(axes)

    def __contains__(self, name: object) -> bool:
        return name in self._sources  # Mapping's own would read the weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)
