"""What a search leaves: tables, a picture, and a few lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_cvt import _figures
from keras_cvt._files import write_text
from training.search.folder import SearchFolder
from training.search.space import Space
from training.search.study import CHANCE, EVOLUTION, Evaluated


def write_table(space: Space, found: Mapping[str, Sequence[Evaluated]], path: Path) -> None:
    """Writes candidates as CSV: how they were found, accuracy, costs, and the value of each choice."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    choices = [f"stage{c.stage}_block{c.block}_{c.field}" for c in space.choices]
    writer.writerow(["search", "accuracy", "multiply_adds", "parameters", *choices])
    for name, evaluated in found.items():
        for one in evaluated:
            values = [
                choice.values[number]
                for choice, number in zip(space.choices, one.candidate, strict=True)
            ]
            cost = (one.cost.multiply_adds, one.cost.parameters)
            writer.writerow([name, f"{one.accuracy:.6f}", *cost, *values])
    write_text(path, text.getvalue())


def draw(found: Mapping[str, Sequence[Evaluated]], front: Sequence[Evaluated], path: Path) -> None:
    """Draws candidates: accuracy against multiply-adds, with rings around those of the front."""
    figure, (axes,) = _figures.grid(1, 1, (7, 4.5))
    for name, style in ((CHANCE, {"color": "0.7"}), (EVOLUTION, {"color": "C0"})):
        evaluated = found[name]
        axes.scatter(
            [one.cost.multiply_adds for one in evaluated],
            [one.accuracy for one in evaluated],
            s=12,
            label=f"by {name}",
            **style,
        )
    axes.scatter(
        [one.cost.multiply_adds for one in front],
        [one.accuracy for one in front],
        s=45,
        facecolors="none",
        edgecolors="C3",
        label="none is more accurate at lower cost",
    )
    axes.set_xlabel("multiply-adds of an image")
    axes.set_ylabel("accuracy with shared weights")
    axes.set_title("candidates within the limits, on training images that were held out")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    _figures.save(figure, path, dpi=120)


def summary(report: Mapping[str, Any], folder: SearchFolder) -> str:
    """A finished search in a few lines."""
    lines = [f"\n{report['candidates']:,} candidates in the space."]
    for name in (EVOLUTION, CHANCE):
        one = report[name]
        lines.append(
            f"By {name}: {one['evaluated']} evaluated; the best has {one['accuracy']:.2%} of "
            f"{report['held_out_images']} images, {one['multiply_adds']:,} multiply-adds, "
            f"{one['parameters']:,} parameters."
        )
    return "\n".join(
        [
            *lines,
            "",
            f"{folder.stages}  the best; train it from scratch: --set stages={folder.stages}",
            f"{folder.front}  those than which none is more accurate at lower cost",
            f"{folder.picture}  all of them",
        ]
    )
