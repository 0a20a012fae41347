"""Configurations of models: one stage (`StageConfig`), and the table of variants."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from keras_cvt._validation import check_block, check_int, check_rate, unknown_choice

PerBlock = Any  # one value for all blocks of a stage, or a sequence with one for each


@dataclasses.dataclass(frozen=True)
class StageConfig:
    """One stage of a CvT: a convolutional token embedding, then blocks. Any ablation is one of these.

    The defaults are those of the later stages of the official models. `mlp_ratio` and `stride_kv`
    take one value for all blocks, or a sequence with one for each, over which the paper's CvT-13-NAS
    searches.

    Attributes:
        embed_dim: channels of the stage's map.
        depth: number of blocks.
        num_heads: attention heads; must divide `embed_dim`.
        patch_size, patch_stride, patch_padding: the embedding's convolution, in pixels of its input.
            Non-overlapping patches (Table 6): size = stride, padding 0.
        class_token: whether the stage adds a class token.
        position_embedding: False; True for a learned one of the size that the model's `input_shape`
            implies (Table 5); or its size as (height, width) in tokens.
        projection: "dw_bn" (depthwise convolution and BatchNorm before the linear maps) or "linear"
            (Table 8).
        kernel_qkv, stride_q, padding_q, stride_kv, padding_kv: of the depthwise convolutions
            (Table 7 varies `stride_kv`). Unused by "linear".
        mlp_ratio: width of the MLPs' hidden layer, as a multiple of `embed_dim`.
        qkv_bias: whether the linear maps to queries, keys and values have a bias.
        drop_rate, attention_drop_rate: dropout rates.
        drop_path_rate: of the last block; the blocks before grow to it linearly from 0. A single block
            has 0, as in the official code: a model of one cannot tell the rate that it was made with.

    Source: `MODEL.SPEC` of the official yaml files, one entry of each list.
    """

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int = 3
    patch_stride: int = 2
    patch_padding: int = 1
    class_token: bool = False
    position_embedding: bool | tuple[int, int] = False
    projection: str = "dw_bn"
    kernel_qkv: int = 3
    stride_q: int = 1
    padding_q: int = 1
    stride_kv: PerBlock = 2
    padding_kv: int = 1
    mlp_ratio: PerBlock = 4.0
    qkv_bias: bool = True
    drop_rate: float = 0.0
    attention_drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self):
        def keep(name, value):
            object.__setattr__(self, name, value)

        for name in ("embed_dim", "depth", "num_heads", "patch_size", "patch_stride"):
            keep(name, check_int(name, getattr(self, name), 1))
        keep("patch_padding", check_int("patch_padding", self.patch_padding, 0))
        for name in ("drop_rate", "attention_drop_rate", "drop_path_rate"):
            check_rate(name, getattr(self, name))
        for name in ("class_token", "qkv_bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"`{name}` must be True or False. Received {getattr(self, name)!r}."
                )
        if not isinstance(self.position_embedding, bool):
            size = self.position_embedding
            if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2:
                raise ValueError(
                    "`position_embedding` must be True, False or (height, width) in tokens. Received "
                    f"{size!r}."
                )
            keep(
                "position_embedding",
                tuple(check_int("position_embedding", n, 1) for n in size),
            )
        for name in ("mlp_ratio", "stride_kv"):
            keep(name, self._per_block(name, getattr(self, name)))

    def _per_block(self, name: str, value: PerBlock) -> PerBlock:
        if isinstance(value, Iterable) and not isinstance(value, str):
            values = tuple(value)
            if len(values) != self.depth:
                raise ValueError(
                    f"`{name}` must be one value or one for each of the {self.depth} blocks. "
                    f"Received {len(values)} values: {value!r}."
                )
            return tuple(self._per_block(name, value) for value in values)
        if name == "stride_kv":
            return check_int(name, value, 1)
        if (
            not isinstance(value, numbers.Real)
            or isinstance(value, bool)
            or not 0 < value < math.inf
        ):
            raise ValueError(f"`{name}` must be a number above 0. Received {value!r}.")
        return value if isinstance(value, (int, float)) else float(value)

    def block_args(self) -> list[dict[str, Any]]:
        """The arguments of each block's `CvTBlock`, which says what is wrong with them."""
        per_block = [
            value if isinstance(value, tuple) else (value,) * self.depth
            for value in (self.mlp_ratio, self.stride_kv)
        ]
        return [
            {
                "embed_dim": self.embed_dim,
                "num_heads": self.num_heads,
                "mlp_ratio": mlp_ratio,
                "projection": self.projection,
                "kernel_size": self.kernel_qkv,
                "strides_q": self.stride_q,
                "padding_q": self.padding_q,
                "strides_kv": stride_kv,
                "padding_kv": self.padding_kv,
                "use_bias": self.qkv_bias,
                "attention_dropout": self.attention_drop_rate,
                "dropout": self.drop_rate,
                "drop_path": self.drop_path_rate * j / max(self.depth - 1, 1),
            }
            for j, (mlp_ratio, stride_kv) in enumerate(zip(*per_block, strict=True))
        ]

    @classmethod
    def from_layers(cls, embedding: Any, blocks: Sequence[Any], **options) -> StageConfig:
        """The configuration of a stage that has been built; `block_args` the other way round."""
        first, last = blocks[0].get_config(), blocks[-1].get_config()

        def per_block(key):
            values = tuple(block.get_config()[key] for block in blocks)
            return values[0] if len(set(values)) == 1 else values

        return cls(
            embed_dim=embedding.embed_dim,
            depth=len(blocks),
            num_heads=first["num_heads"],
            patch_size=embedding.kernel_size,
            patch_stride=embedding.strides,
            patch_padding=embedding.padding,
            projection=first["projection"],
            kernel_qkv=first["kernel_size"],
            stride_q=first["strides_q"],
            padding_q=first["padding_q"],
            stride_kv=per_block("strides_kv"),
            padding_kv=first["padding_kv"],
            mlp_ratio=per_block("mlp_ratio"),
            qkv_bias=first["use_bias"],
            drop_rate=first["dropout"],
            attention_drop_rate=first["attention_dropout"],
            drop_path_rate=last["drop_path"],
            **options,
        )


def _variant(dims, depths, heads, drop_path_rate) -> tuple[StageConfig, ...]:
    """A model of Table 2: a 7x7 embedding first, and in the last stage class token and drop path."""
    first, middle, last = (
        StageConfig(embed_dim=dim, depth=depth, num_heads=num_heads)
        for dim, depth, num_heads in zip(dims, depths, heads, strict=True)
    )
    return (
        dataclasses.replace(first, patch_size=7, patch_stride=4, patch_padding=2),
        middle,
        dataclasses.replace(last, class_token=True, drop_path_rate=drop_path_rate),
    )


VARIANTS: dict[str, tuple[StageConfig, ...]] = {
    "CvT13": _variant((64, 192, 384), (1, 2, 10), (1, 3, 6), drop_path_rate=0.1),
    "CvT21": _variant((64, 192, 384), (1, 4, 16), (1, 3, 6), drop_path_rate=0.1),
    "CvTW24": _variant((192, 768, 1024), (2, 2, 20), (3, 12, 16), drop_path_rate=0.3),
}


def variant_named(name: str) -> str:
    """The key in `VARIANTS` of a name as users write it: "cvt13", "CvT-13" and "cvt_13" are "CvT13".

    Raises:
        ValueError: For another name, with those that there are.
    """
    known = {variant.lower(): variant for variant in VARIANTS}
    key = name.lower().replace("-", "").replace("_", "")
    if key not in known:
        raise ValueError(unknown_choice("model", name, tuple(known)))
    return known[key]


def as_stage(index: int, stage: StageConfig | Mapping[str, Any]) -> StageConfig:
    if not isinstance(stage, (StageConfig, Mapping)):
        raise ValueError(
            f"Stage {index} must be a StageConfig or a dict of its fields. Received {stage!r}."
        )
    required = [field.name for field in _FIELDS if field.default is dataclasses.MISSING]
    if isinstance(stage, Mapping) and (missing := [name for name in required if name not in stage]):
        raise ValueError(f"Stage {index} has no {', '.join(missing)}.")
    try:
        if isinstance(stage, Mapping):
            stage = StageConfig(**_fields(stage))
        for block in stage.block_args():
            check_block(**block)
    except ValueError as error:
        raise ValueError(f"Stage {index}: {error}") from None
    return stage


_FIELDS = dataclasses.fields(StageConfig)


def _fields(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of fields of a stage, if all are such."""
    names = [field.name for field in _FIELDS]
    for key in values:
        if key not in names:
            raise ValueError(unknown_choice("field", key, names))
    return values


def as_stages(stages: Iterable[StageConfig | Mapping[str, Any]]) -> list[StageConfig]:
    """The stages of a model as `CvT` takes them.

    Raises:
        ValueError: naming the one of which no model can be made, or if there is none.
    """
    if isinstance(stages, (StageConfig, Mapping, str)) or not isinstance(stages, Iterable):
        raise ValueError(f"`stages` must be a list of stages. Received {stages!r}.")
    stages = [as_stage(i, stage) for i, stage in enumerate(stages)]
    if not stages:
        raise ValueError("A CvT has at least one stage; `stages` is empty.")
    return stages


ALL_STAGES = "all"


def with_changes(
    stages: Sequence[StageConfig], changes: Mapping[str, Mapping[str, Any]]
) -> list[StageConfig]:
    """Stages with other values in some fields.

    Args:
        changes: Fields and their new values, by stage: "stage0", "stage1" and so on, as the layers are
            named, or "all"; what is said of a single stage counts.

    Raises:
        ValueError: For a stage or a field that there is not, or a value of which no model can be made.

    Example:
        # Table 7, "stride 1 in the third stage".
        with_changes(VARIANTS["CvT13"], {"stage2": {"stride_kv": 1}})
    """
    names = [f"stage{i}" for i in range(len(stages))]
    for key, values in changes.items():
        if key not in (*names, ALL_STAGES):
            raise ValueError(unknown_choice("stages", key, (*names, ALL_STAGES)))
        if not isinstance(values, Mapping):
            raise ValueError(f"{key} must be fields of a stage by name. Received {values!r}.")
    changed = []
    for i, (name, stage) in enumerate(zip(names, stages, strict=True)):
        values = {**changes.get(ALL_STAGES, {}), **changes.get(name, {})}
        try:
            stage = dataclasses.replace(stage, **_fields(values))
        except ValueError as error:
            raise ValueError(f"Stage {i}: {error}") from None
        changed.append(as_stage(i, stage))
    return changed


def widths_and_depths(stages: Iterable[StageConfig]) -> tuple[tuple[int, int], ...]:
    """(embed_dim, depth) of each stage, which a checkpoint shows."""
    return tuple((stage.embed_dim, stage.depth) for stage in stages)


def stages_from_json(value: Any) -> list[StageConfig]:
    """Stages from what a JSON file holds: a list of dicts of their fields, or for `stages_from_spec`.

    Raises:
        ValueError: If it holds something else, or of which no model can be made.
    """
    return stages_from_spec(value) if isinstance(value, Mapping) else as_stages(value)


def stages_to_json(stages: Iterable[StageConfig]) -> list[dict[str, Any]]:
    """What `stages_from_json` makes the same stages of: the fields of each that are not the default."""

    def as_lists(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return [
        {
            field.name: as_lists(getattr(stage, field.name))
            for field in _FIELDS
            if getattr(stage, field.name) != field.default
        }
        for stage in stages
    ]


# The same options under the names of the official yaml files and of Hugging Face's config.json.
_SPEC_NAMES = {
    "dim_embed": "embed_dim",
    "embed_dim": "embed_dim",
    "depth": "depth",
    "num_heads": "num_heads",
    "patch_size": "patch_size",
    "patch_sizes": "patch_size",
    "patch_stride": "patch_stride",
    "patch_padding": "patch_padding",
    "cls_token": "class_token",
    "pos_embed": "position_embedding",
    "qkv_proj_method": "projection",
    "qkv_projection_method": "projection",
    "kernel_qkv": "kernel_qkv",
    "stride_q": "stride_q",
    "padding_q": "padding_q",
    "stride_kv": "stride_kv",
    "padding_kv": "padding_kv",
    "mlp_ratio": "mlp_ratio",
    "qkv_bias": "qkv_bias",
    "drop_rate": "drop_rate",
    "attn_drop_rate": "attention_drop_rate",
    "attention_drop_rate": "attention_drop_rate",
    "drop_path_rate": "drop_path_rate",
}


def stages_from_spec(spec: Mapping[str, Any]) -> list[StageConfig]:
    """Stages from the official code's or Hugging Face's description of a model.

    Args:
        spec: an official yaml file as a dict, or its `MODEL.SPEC`, in upper or lower case; or Hugging
            Face's `config.json`: a list for each option, with an entry for each stage. What says
            nothing of the stages is left out; `INIT` is the argument `kernel_initializer` of `CvT`.

    Returns:
        A `StageConfig` for each stage, to be given to `CvT`.

    Raises:
        ValueError: for a spec without widths and depths, with lists of different lengths, with one
            value instead of a list, or with what seems to be a misspelt option.
    """
    for inner in ("model", "spec"):
        spec = next((v for k, v in spec.items() if k.lower() == inner), spec)
        if not isinstance(spec, Mapping):
            raise ValueError(f"The spec's {inner.upper()} must be options by name, not {spec!r}.")
    options: dict[str, Sequence] = {}
    for key, value in spec.items():
        name = _SPEC_NAMES.get(key.lower())
        if name is None:
            close = difflib.get_close_matches(key.lower(), _SPEC_NAMES, n=1, cutoff=0.85)
            if close:
                raise ValueError(f"The spec has an option {key!r}. Did you mean {close[0]!r}?")
        elif isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{key!r} must be a list with an entry for each stage, not {value!r}.")
        else:
            options[name] = value
    for required in ("embed_dim", "depth", "num_heads"):
        if required not in options:
            raise ValueError(f"The spec says nothing of {required}. It has {', '.join(spec)}.")
    if len({len(value) for value in options.values()}) != 1:
        lengths = ", ".join(f"{key}: {len(value)}" for key, value in options.items())
        raise ValueError(f"The spec's lists differ in length: {lengths}.")
    columns = zip(*options.values(), strict=True)
    return as_stages(dict(zip(options, values, strict=True)) for values in columns)


def conv_output_size(size: int | None, kernel_size: int, strides: int, padding: int) -> int | None:
    """Length of a convolution's output (paper, equation 1); None stays None."""
    return None if size is None else (size + 2 * padding - kernel_size) // strides + 1


def check_input_size(stages: Sequence[StageConfig], input_shape: tuple[int | None, ...]) -> None:
    """Refuses images of which some convolution would leave nothing, and unknown sizes where a
    position embedding takes its size from them."""
    if None in input_shape and any(stage.position_embedding is True for stage in stages):
        raise ValueError(
            "position_embedding=True takes its size from `input_shape`, which must be known. Received "
            f"{input_shape}. Or give position_embedding=(height, width) in tokens."
        )

    def fits(size):
        for stage in stages:
            size = conv_output_size(size, stage.patch_size, stage.patch_stride, stage.patch_padding)
            kernel = 1 if stage.projection == "linear" else stage.kernel_qkv
            if size < 1 or size + 2 * stage.padding_kv < kernel:
                return False
        return True

    if not all(size is None or fits(size) for size in input_shape[:2]):
        minimum = next((size for size in range(1, 4096) if fits(size)), None)
        raise ValueError(
            f"Images of {input_shape[0]}x{input_shape[1]} are too small for this model: height and "
            f"width must be at least {minimum} pixels."
        )
