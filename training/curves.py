"""A picture of how a run went."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from training.files import replacing


def save(epochs: list[dict[str, float]], path: Path) -> None:
    """Draws loss, accuracy and learning rate over the epochs into a PNG.

    Args:
        epochs: `record.Progress.epochs`.
        path: of the picture.
    """
    # Not through pyplot: no window is wanted, and no setting of the user's changed.
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy, rate = figure.subplots(1, 3)
    xs = range(1, len(epochs) + 1)

    def draw(axes, key, **style):
        axes.plot(xs, [epoch[key] for epoch in epochs], marker=".", **style)

    draw(loss, "loss", label="training (augmented)")
    draw(loss, "val_loss", label="held out")
    draw(accuracy, "top1", label="training")
    draw(accuracy, "val_top1", label="held out")
    draw(rate, "learning_rate", color="gray")
    for axes, title in ((loss, "loss"), (accuracy, "top1"), (rate, "learning rate")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(top=1)
    loss.legend(loc="upper right")
    accuracy.legend(loc="lower right")
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
