"""Draws what the comparisons measured: `python -m benchmarks.picture FILE.json ... --output FILE.png`.

The files are those of `--json` of `benchmarks.inference` (without --growth) and `benchmarks.training`.
Bars are speeds as ratios to the official PyTorch code's, lines across
their ends the half of the rounds in the middle.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import BenchmarkError
from keras_cvt import _figures
from keras_cvt._commands import WRONG_USE, Parser, command
from keras_cvt._files import check_file


@command("benchmarks.picture", {BenchmarkError: WRONG_USE, OSError: WRONG_USE})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 2 can't be done as asked."""
    parser = Parser(prog="benchmarks.picture", description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    arguments = parser.parse_args(argv)
    check_file(arguments.output)
    try:
        reports = [json.loads(path.read_text()) for path in arguments.files]
        tables = [
            (f"{report['task']}, {title}", figures)
            for report in reports
            for title, figures in report["tables"].items()
        ]
    except (ValueError, KeyError) as error:
        raise BenchmarkError(f"not what --json writes: {error}") from None
    draw(tables, reports[0]["machine"], arguments.output)


def draw(tables: list[tuple[str, dict]], machine: dict[str, str], output: Path) -> None:
    """Writes a picture with a column of bars for each table of figures by name."""
    heights = [len(figures) for _, figures in tables]
    size = (8, 0.27 * sum(heights) + 0.8 * len(tables))
    figure, axes = _figures.grid(len(tables), 1, size, height_ratios=heights)
    for axis, (title, figures) in zip(axes, tables, strict=True):
        ratios = [row["ratio"] for row in figures.values()]
        spread = [
            [row["ratio"] - row["quartiles"][0] for row in figures.values()],
            [row["quartiles"][1] - row["ratio"] for row in figures.values()],
        ]
        colors = ["tab:blue" if name.startswith(OURS) else "silver" for name in figures]
        axis.barh(list(figures), ratios, xerr=spread, color=colors, ecolor="dimgray", height=0.7)
        for i, ratio in enumerate(ratios):
            axis.text(0.03, i, f"{ratio:.2f}", va="center", fontsize=8)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=10, loc="left")
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(
        f"speed, official PyTorch in eager mode = 1; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['date']}",
        fontsize=8,
    )
    _figures.save(figure, output, dpi=100)


# How the names of this library's contenders begin.
OURS = ("CvT13", "LiteRT", "OpenVINO")


if __name__ == "__main__":
    sys.exit(main())
