"""Which CvT is trained, and from which weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_cvt._files import json_text, read_json
from keras_cvt.architecture import (
    VARIANTS,
    StageConfig,
    as_stages,
    stages_from_json,
    stages_to_json,
    with_changes,
)
from training.config.fields import LESS_THAN_1, ConfigError, Section, setting

CUSTOM = "custom"
MODELS = (*map(str.lower, VARIANTS), CUSTOM)
INITS = {"trunc_norm": None, "xavier": "glorot_uniform"}  # `kernel_initializer` of keras_cvt

_STAGES = (
    "a list of stages or an object of their changes, as JSON; or a .json file with a list of stages, "
    "the official options or Hugging Face's config.json"
)


def _read_stages(text: str) -> Any:
    """What `--set stages=` means; ValueError if it is no JSON, ConfigError for a file of no use."""
    if not text.endswith(".json"):
        return json.loads(text)
    try:
        stages = stages_from_json(read_json(Path(text), (dict, list)))
    except (OSError, ValueError) as error:
        raise ConfigError(f"`stages` can't be read. {error}") from None
    return stages_to_json(stages)


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """Which CvT is trained, and from which weights.

    Attributes:
        variant: One of `MODELS`; "custom" is given by `dims`, `depths`, `heads` and `patch`, or by
            `stages`. Its key is `model`.
        dims, depths, heads: Channels, number of blocks and attention heads of each stage of a custom
            CvT. The last stage has the class token.
        patch: Kernel size, stride and padding of the first stage's embedding, in pixels. The other
            stages have the official 3, 2, 1.
        stages: A list of all stages of a custom CvT, each a `StageConfig` or a dict of its fields; or
            changes of the variant's stages, or of the custom model's, as `with_changes` of
            `keras_cvt.architecture` takes them: `{"stage2": {"stride_kv": 1}}`.
        init: Initializer of the linear projections: "trunc_norm", as in the official models, or
            "xavier", the other official option, with which narrow models learn faster.
        drop_path_rate: Of the last stage's last block, in [0, 1); none: the model's own.
        weights: To start from: a published name such as "imagenet", or a file. If its classes are not
            those of the images, the head is new. none: random.
        recompute: Whether attention and MLPs are recomputed for their gradients instead of kept
            (gradient checkpointing): for images that do not fit into memory, at about 15 % more time.
    """

    variant: str = setting(CUSTOM, choices=MODELS, key="model")
    dims: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    patch: tuple[int, ...] = (7, 4, 2)
    stages: tuple | Mapping = setting((), read=_read_stages, words=_STAGES, before=[])
    init: str = setting("trunc_norm", choices=tuple(INITS))
    drop_path_rate: float | None = setting(None, LESS_THAN_1)
    weights: str | None = None
    recompute: bool = setting(False, may_change=True)

    def __post_init__(self):
        super().__post_init__()
        for name in ("depths", "heads"):
            right = f"one value for each of the {len(self.dims)} stages of `dims`"
            self.check(name, len(getattr(self, name)) == len(self.dims), right)
        if isinstance(self.stages, tuple) and self.stages:
            self.check("variant", self.variant == CUSTOM, "custom, where `stages` is a list")
            self.check("dims", not self.dims, "left out, where `stages` is a list")
        elif self.variant == CUSTOM:
            self.check("dims", len(self.dims) >= 1, "at least one stage's channels")
        else:
            self.check("dims", not self.dims, "left out, or `model` custom")
        self.check("patch", len(self.patch) == 3, "kernel size, stride and padding")
        try:
            self.architecture()
            # As JSON has it: whatever means the same is equal.
            object.__setattr__(self, "stages", _as_json(self.stages or ()))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"There is no such model. {error}") from None

    def architecture(self) -> list[StageConfig]:
        """The stages of the model.

        Raises:
            ValueError: If no model can be made of them.
        """
        if isinstance(self.stages, tuple) and self.stages:
            stages = as_stages(self.stages)
        else:
            stages = with_changes(self._named(), self.stages or {})
        if self.drop_path_rate is None:
            return stages
        return [*stages[:-1], dataclasses.replace(stages[-1], drop_path_rate=self.drop_path_rate)]

    def _named(self) -> list[StageConfig]:
        """The stages of the variant, or of the custom model, before any changes."""
        if self.variant != CUSTOM:
            return list(dict(zip(MODELS, VARIANTS.values(), strict=False))[self.variant])
        size, stride, padding = self.patch
        first = {"patch_size": size, "patch_stride": stride, "patch_padding": padding}
        shapes = zip(self.dims, self.depths, self.heads, strict=True)
        return as_stages(
            {
                "embed_dim": dim,
                "depth": depth,
                "num_heads": heads,
                "class_token": i == len(self.dims) - 1,
                **(first if i == 0 else {}),
            }
            for i, (dim, depth, heads) in enumerate(shapes)
        )


def _as_json(stages: tuple | Mapping) -> tuple | dict:
    if isinstance(stages, tuple):
        return tuple(stages_to_json(as_stages(stages))) if stages else ()
    return json.loads(json_text(stages))
