"""Draws what the comparisons measured: `python -m benchmarks.picture FILE.json ... --output FILE.png`.

The files are those of `--json` of `benchmarks.inference` (without --growth) and `benchmarks.training`.
Bars are speeds as ratios to the official PyTorch code's, lines across
their ends the half of the rounds in the middle.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.measure import check_folder
from keras_cvt._files import replacing


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 2 can't be done as asked."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.picture", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE.json")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.png")
    arguments = parser.parse_args(argv)
    check_folder(parser, arguments.output)
    try:
        reports = [json.loads(path.read_text()) for path in arguments.files]
        tables = [
            (f"{report['task']}, {title}", figures)
            for report in reports
            for title, figures in report["tables"].items()
        ]
    except (OSError, ValueError, KeyError) as error:
        print(f"benchmarks.picture: error: not what --json writes: {error}", file=sys.stderr)
        return 2
    draw(tables, reports[0]["machine"], arguments.output)
    return 0


def draw(tables: list[tuple[str, dict]], machine: dict[str, str], output: Path) -> None:
    """Writes a picture with a column of bars for each table of figures by name."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = [len(figures) for _, figures in tables]
    figure, axes = pyplot.subplots(
        len(tables),
        figsize=(8, 0.27 * sum(heights) + 0.8 * len(tables)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    for axis, (title, figures) in zip(axes[:, 0], tables, strict=True):
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
    axes[-1, 0].set_xlabel(
        f"speed, official PyTorch in eager mode = 1; {machine['processor']}, {machine['cores']} cores, "
        f"{machine['date']}",
        fontsize=8,
    )
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=100)
    pyplot.close(figure)


# How the names of this library's contenders begin.
OURS = ("CvT13", "LiteRT", "OpenVINO")


if __name__ == "__main__":
    sys.exit(main())
