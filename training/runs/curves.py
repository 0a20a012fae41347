"""Plots of runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from keras_cvt import _figures

Epochs = list[dict[str, float]]  # as `training.engine.state.Progress.epochs`


def save(epochs: Epochs, path: Path) -> None:
    """Draws loss, accuracy and learning rate of a run over its epochs into a file."""
    with _panels(path) as (loss, accuracy, rate):
        _draw(loss, epochs, "loss", label="training (augmented)")
        _draw(loss, epochs, "val_loss", label="validation")
        _draw(accuracy, epochs, "top1", label="training")
        _draw(accuracy, epochs, "val_top1", label="validation")
        _draw(rate, epochs, "learning_rate", color="gray")
        loss.legend(loc="upper right")
        accuracy.legend(loc="lower right")


def save_comparison(runs: Mapping[str, Epochs], path: Path) -> None:
    """Draws several runs, by their names, into one picture: training dashed, validation solid."""
    with _panels(path) as (loss, accuracy, rate):
        for number, (name, epochs) in enumerate(runs.items()):
            style: dict[str, Any] = {"color": f"C{number % 10}"}
            for axes, key in ((loss, "loss"), (accuracy, "top1")):
                _draw(axes, epochs, key, linestyle="--", alpha=0.5, **style)
                # A label that begins with an underscore would not be in the legend.
                label = f" {name}" if name.startswith("_") else name
                _draw(axes, epochs, f"val_{key}", label=label, **style)
            _draw(rate, epochs, "learning_rate", **style)
        accuracy.legend(loc="lower right", title="dashed: training", fontsize="small")


@contextlib.contextmanager
def _panels(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Three axes to draw into, and then the file."""
    figure, (loss, accuracy, rate) = _figures.grid(1, 3, (12, 3.6))
    yield loss, accuracy, rate
    for axes, title in ((loss, "loss"), (accuracy, "top1"), (rate, "learning rate")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(top=1)
    _figures.save(figure, path, dpi=120)


def _draw(axes: Any, epochs: Epochs, key: str, **style: Any) -> None:
    axes.plot(range(1, len(epochs) + 1), [epoch[key] for epoch in epochs], marker=".", **style)
