"""The rows of the paper's Tables 5 to 8, as changes of any CvT. Nothing here imports TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_cvt.architecture import StageConfig, with_changes

Changes = dict[str, dict[str, Any]]  # as `with_changes` takes them


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of one of the paper's tables.

    Attributes:
        letter: What the paper calls it.
        what: What differs in it, in words.
        name: Of the runs. Rows of the same model, in whatever table, have the same.
        changes: Of the plain model's stages.
        parameters: The paper's, in millions, as printed.
        multiply_adds: The paper's, in billions, as printed; "" where it gives none.
        top1: The paper's accuracy on ImageNet in percent, as printed.
    """

    letter: str
    what: str
    name: str
    changes: Changes
    parameters: str
    multiply_adds: str
    top1: str


TITLES = {
    5: "Position embedding",
    6: "Convolutional token embedding",
    7: "Stride of the convolutional projection of keys and values",
    8: "Convolutional projection or position-wise linear projection",
}

# Of the paper's rows that are not of a CvT.
LEFT_OUT = {5: "Rows a and b of the paper are DeiT-S, with and without position embedding: no CvT."}

PLAIN = "plain"

# What makes a model the paper's, whatever it was, but for its widths and depths.
_PLAIN = {"all": {"position_embedding": False, "projection": "dw_bn", "stride_kv": 2}}


def rows(table: int, stages: Sequence[StageConfig]) -> list[Row]:
    """The rows of a table, for a model with these stages.

    Args:
        table: 5, 6, 7 or 8.
        stages: Of the plain model, which is CvT-13 in the paper. It is what the last row of each table
            has: convolutional embedding and projection, stride 2, no position embedding.
    """
    names = [f"stage{i}" for i in range(len(stages))]
    return {5: _position, 6: _embedding, 7: _stride, 8: _projection}[table](names, stages)


def _position(names: Sequence[str], stages: Sequence[StageConfig]) -> list[Row]:
    def at(*chosen: str) -> Changes:
        return {name: {"position_embedding": True} for name in chosen}

    return [
        Row("c", "in every stage", "position-every", at(*names), "20", "", "81.5"),
        Row("d", "in the first stage", "position-first", at(names[0]), "20", "", "81.4"),
        Row("e", "in the last stage", "position-last", at(names[-1]), "20", "", "81.4"),
        Row("f", "none", PLAIN, {}, "20", "", "81.6"),
    ]


def _embedding(names: Sequence[str], stages: Sequence[StageConfig]) -> list[Row]:
    patches = {
        name: {"patch_size": stage.patch_stride, "patch_padding": 0}
        for name, stage in zip(names, stages, strict=True)
    }
    # The printed parameters, 19.9 and 20.3 M, are those of position embeddings in all stages but the
    # last (19.91 and 20.35 M); with every stage they would be 19.99 and 20.42 M.
    position = {name: {"position_embedding": True} for name in names[:-1] or names}
    both = {name: {**patches[name], **position.get(name, {})} for name in names}
    return [
        Row("a", "patches", "patches", patches, "19.5", "", "80.7"),
        Row("b", "patches, position embedding", "patches-position", both, "19.9", "", "81.1"),
        Row(
            "c",
            "convolution, position embedding",
            "position-but-last",
            position,
            "20.3",
            "",
            "81.4",
        ),
        Row("d", "convolution", PLAIN, {}, "20.0", "", "81.6"),
    ]


def _stride(names: Sequence[str], stages: Sequence[StageConfig]) -> list[Row]:
    return [
        Row("a", "stride 1", "stride-1", {"all": {"stride_kv": 1}}, "20", "6.55", "82.3"),
        Row("b", "stride 2", PLAIN, {}, "20", "4.53", "81.6"),
    ]


def _projection(names: Sequence[str], stages: Sequence[StageConfig]) -> list[Row]:
    papers = {0: "80.6", 1: "80.8", 2: "81.0", len(names): "81.6"}
    found = []
    for count in range(len(names) + 1):
        linear = {name: {"projection": "linear"} for name in names[count:]}
        what = f"convolutional in the first {count} of {len(names)} stages"
        if count in (0, len(names)):
            what = "convolutional in every stage" if count else "linear in every stage"
        name = PLAIN if count == len(names) else f"convolutional-{count}"
        found.append(
            Row("abcdefgh"[count : count + 1], what, name, linear, "", "", papers.get(count, ""))
        )
    return found


def changed(stages: Sequence[StageConfig], row: Row) -> list[StageConfig]:
    """The stages of a row.

    Raises:
        ValueError: If no model can be made of them.
    """
    return with_changes(with_changes(stages, _PLAIN), row.changes)
