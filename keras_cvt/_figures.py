"""Pictures that matplotlib draws, without pyplot: no window opens and no setting is changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cvt._files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def import_matplotlib() -> Any:
    """matplotlib, with what `grid` needs of it.

    Raises:
        ImportError: If it is not installed; says what to do.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(f"Pictures need matplotlib: pip install matplotlib ({error})") from error
    return matplotlib


def grid(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Figure, list[Any]]:
    """A figure and its axes, row by row.

    Args:
        rows, columns: How many axes there are.
        size: Width and height of the figure in inches.
        **options: Of `Figure.subplots`, such as `height_ratios` through `gridspec_kw`.

    Raises:
        ImportError: Without matplotlib.
    """
    figure = import_matplotlib().figure.Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def image_grid(
    count: int, size: tuple[float, float], most_columns: int = 8
) -> tuple[Figure, list[Any]]:
    """A figure with a place for each of `count` images, and the axes, without any lines.

    Args:
        count: How many images there are, at least 1.
        size: Width and height of a place in inches.
        most_columns: The largest number of places in a row. Defaults to 8.
    """
    columns = min(count, most_columns)
    rows = -(-count // columns)
    figure, axes = grid(rows, columns, (columns * size[0], rows * size[1]))
    for place in axes:
        place.axis("off")
    return figure, axes


def save(figure: Figure, path: Path, dpi: int, overwrite: bool = True) -> None:
    """Writes a figure to a file, whole or not at all. The file's ending decides the format.

    Titles and legends are shown as they are: of a class called "US$ and A$", nothing is a formula.
    """
    for axes in figure.axes:
        legend = axes.get_legend()
        for text in [axes.title, *(legend.get_texts() if legend else ())]:
            text.set_parse_math(False)
    with replacing(path, overwrite=overwrite) as temporary:
        figure.savefig(temporary, dpi=dpi)
