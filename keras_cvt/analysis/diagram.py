"""A CvT's architecture as a picture: stages, shapes and multiply-adds, from the configuration alone.

The picture is an SVG with a background of its own, so that it can be read on a light page and on a
dark one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

import keras

from keras_cvt.analysis.complexity import complexity, described
from keras_cvt.architecture import StageConfig, conv_output_size

# Pixels.
_PANEL, _GAP, _SIDE, _HEIGHT, _MARGIN = 212, 34, 124, 376, 18
_COLOURS = ("#2f6fb3", "#1f8a70", "#c0612b", "#7b4fa3", "#a3324a")
_INK, _PALE, _PAPER = "#1f2933", "#5b6875", "#fbfbf9"


def draw(
    model_or_stages: keras.Model | Sequence[StageConfig | Mapping[str, Any]],
    input_shape: Sequence[int | None] | None = None,
    classes: int = 1000,
    title: str | None = None,
) -> str:
    """The picture of a model, or of one that is not made yet.

    Args:
        model_or_stages: As in `complexity`.
        input_shape: As in `complexity`.
        classes: As in `complexity`.
        title: a line above the picture; None for the model's name, if there is a model.

    Returns:
        The text of an SVG file.

    Raises:
        ValueError: as `complexity`.
    """
    counted = complexity(model_or_stages, input_shape, classes)
    design = described(model_or_stages, input_shape, classes)
    if title is None:
        title = model_or_stages.name if isinstance(model_or_stages, keras.Model) else "CvT"
    height, width, channels = design.input_shape
    work = {
        i: sum(row.multiply_adds for row in counted.rows if row.name.startswith(f"stage{i}_"))
        for i in range(len(design.stages))
    }
    picture = _Picture()
    picture.text(_MARGIN, 34, title, size=19, bold=True)
    totals = (
        f"{_short(counted.parameters)} parameters, {_short(counted.multiply_adds)} multiply-adds"
    )
    if counted.computed < counted.multiply_adds:
        totals += f", {_short(counted.computed)} of them computed"
    picture.text(_MARGIN, 56, f"{totals} for an image of {height}×{width}", colour=_PALE)

    largest = max(design.maps[0][:2])
    widest = max(shape[2] for shape in design.maps)
    left = _MARGIN
    picture.cuboid(left + _SIDE / 2, 172, (height, width, channels), 96, 8, "#8a94a0")
    picture.text(left + _SIDE / 2, 252, f"{height}×{width}×{channels}", bold=True, middle=True)
    picture.text(left + _SIDE / 2, 270, "image", colour=_PALE, middle=True)
    left += _SIDE
    for i, (stage, shape) in enumerate(zip(design.stages, design.maps, strict=True)):
        picture.arrow(left, left + _GAP, 172)
        left += _GAP
        colour = _COLOURS[i % len(_COLOURS)]
        side = 22 + 66 * max(shape[:2]) / largest
        depth = 8 + 52 * shape[2] / widest
        middle = left + _PANEL / 2
        picture.panel(left, colour)
        picture.text(left + 14, 102, f"Stage {i + 1}", bold=True, colour=colour)
        if stage.class_token:
            picture.token(left + _PANEL - 24, 97, colour)
            picture.text(left + _PANEL - 36, 102, "+ class token", colour=_PALE, end=True)
        picture.cuboid(middle, 172, shape, side, depth, colour)
        picture.text(middle, 252, "×".join(map(str, shape)), bold=True, middle=True)
        for line, text in enumerate(_lines(stage, shape)):
            picture.text(left + 14, 276 + 18 * line, text, colour=_PALE if line != 1 else _INK)
        share = work[i] / counted.multiply_adds
        picture.bar(left + 14, 336, _PANEL - 28, share, colour)
        picture.text(left + 14, 354, f"{_short(work[i])} multiply-adds ({share:.0%})", size=12)
        left += _PANEL
    if design.classes:
        picture.arrow(left, left + _GAP, 172)
        left += _GAP
        source = "class token" if design.token_only else "mean of the map"
        picture.scores(left + _SIDE / 2, 172)
        picture.text(left + _SIDE / 2, 252, f"{design.classes:,} classes", bold=True, middle=True)
        picture.text(left + _SIDE / 2, 270, f"from the {source}", colour=_PALE, middle=True)
        left += _SIDE
    return picture.svg(left + _MARGIN, _HEIGHT, f"{title}: {totals}")


def _lines(stage: StageConfig, shape: tuple[int, int, int]) -> list[str]:
    """What a stage does, in three lines."""
    patch = stage.patch_size
    blocks = stage.block_args()
    grids = dict.fromkeys(
        tuple(
            side
            if block["projection"] == "linear"
            else conv_output_size(
                side, block["kernel_size"], block["strides_kv"], block["padding_kv"]
            )
            for side in shape[:2]
        )
        for block in blocks
    )
    keys = " or ".join(f"{rows}×{columns}" for rows, columns in grids)
    ratios = " or ".join(f"{ratio:g}" for ratio in dict.fromkeys(b["mlp_ratio"] for b in blocks))
    plural = "s" if stage.depth > 1 else ""
    heads = "s" if stage.num_heads > 1 else ""
    return [
        f"Embedding {patch}×{patch}, stride {stage.patch_stride}",
        f"{stage.depth} CvT block{plural}, {stage.num_heads} head{heads}",
        f"{keys} keys, MLP ×{ratios}",
    ]


def _short(number: int) -> str:
    """Three digits, such as 20.0 M."""
    # Rounded first: 9.999 is 10.0, and 999.9 k is 1.00 M.
    number = int(float(f"{number:.3g}"))
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            value = number / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return str(number)


class _Picture:
    """The elements of an SVG, in the order in which they are drawn."""

    def __init__(self):
        self._elements: list[str] = []

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = 13,
        bold: bool = False,
        middle: bool = False,
        end: bool = False,
        colour: str = _INK,
    ) -> None:
        anchor = "middle" if middle else "end" if end else "start"
        weight = ' font-weight="600"' if bold else ""
        self._elements.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" '
            f'text-anchor="{anchor}"{weight}>{escape(text)}</text>'
        )

    def _polygon(self, points: Sequence[tuple[float, float]], colour: str, light: float) -> None:
        where = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._elements.append(
            f'<polygon points="{where}" fill="{colour}" fill-opacity="{light}" stroke="{colour}"/>'
        )

    def cuboid(
        self, x: float, y: float, shape: Sequence[int], side: float, depth: float, colour: str
    ) -> None:
        """A map around (x, y), whose longer side has `side` pixels."""
        height, width = (side * n / max(shape[:2]) for n in shape[:2])
        along, up = depth * 0.8, depth * 0.4
        left, top = x - (width + along) / 2, y - (height - up) / 2
        right, bottom = left + width, top + height
        self._polygon(
            [(left, top), (right, top), (right, bottom), (left, bottom)], colour, light=0.3
        )
        self._polygon(
            [(left, top), (left + along, top - up), (right + along, top - up), (right, top)],
            colour,
            light=0.15,
        )
        self._polygon(
            [
                (right, top),
                (right + along, top - up),
                (right + along, bottom - up),
                (right, bottom),
            ],
            colour,
            light=0.5,
        )

    def panel(self, left: float, colour: str) -> None:
        self._elements.append(
            f'<rect x="{left:g}" y="78" width="{_PANEL}" height="{_HEIGHT - 78 - 12}" rx="10" '
            f'fill="#ffffff" stroke="{colour}" stroke-opacity="0.45"/>'
        )

    def bar(self, x: float, y: float, width: float, share: float, colour: str) -> None:
        for length, light in ((width, 0.15), (width * share, 0.9)):
            self._elements.append(
                f'<rect x="{x:g}" y="{y - 6:g}" width="{length:g}" height="6" rx="3" fill="{colour}" '
                f'fill-opacity="{light}"/>'
            )

    def token(self, x: float, y: float, colour: str) -> None:
        self._elements.append(f'<circle cx="{x:g}" cy="{y:g}" r="7" fill="{colour}"/>')

    def arrow(self, left: float, right: float, y: float) -> None:
        self._elements.append(
            f'<path d="M{left + 5:g} {y:g}H{right - 8:g}m-6 -5l6 5l-6 5" fill="none" '
            f'stroke="{_PALE}" stroke-width="1.6"/>'
        )

    def scores(self, x: float, y: float) -> None:
        """Bars, as of probabilities."""
        for i, length in enumerate((14, 22, 64, 18, 10)):
            self._elements.append(
                f'<rect x="{x - 32:g}" y="{y - 44 + 18 * i:g}" width="{length}" height="11" rx="2" '
                f'fill="{_PALE}" fill-opacity="{0.95 if length == 64 else 0.45}"/>'
            )

    def svg(self, width: float, height: float, description: str) -> str:
        elements = "\n".join(self._elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" role="img" '
            f'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">\n'
            f"<title>{escape(description)}</title>\n"
            f'<rect width="{width:g}" height="{height:g}" rx="12" fill="{_PAPER}"/>\n'
            f"{elements}\n</svg>\n"
        )
