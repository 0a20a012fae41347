"""What came out of the runs of a table, as Markdown, CSV and a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_cvt import _figures
from keras_cvt._files import write_text
from keras_cvt._tables import markdown
from training.ablations.tables import LEFT_OUT, TITLES, Row


@dataclasses.dataclass(frozen=True)
class Result:
    """A row and what is known of it.

    Attributes:
        row: The paper's row.
        parameters: Of this model; None if that is not known yet.
        multiply_adds: Of this model, for one image, where everything is counted; None likewise.
        accuracies: Of the runs that are finished, from 0 to 1, by their seeds.
    """

    row: Row
    parameters: int | None
    multiply_adds: int | None
    accuracies: dict[int, float] = dataclasses.field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        return statistics.mean(self.accuracies.values()) if self.accuracies else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds, of at least two."""
        return statistics.stdev(self.accuracies.values()) if len(self.accuracies) > 1 else None


def of_reports(row: Row, reports: Mapping[int, Mapping[str, Any]]) -> Result:
    """The result of a row's finished runs, of which there are the reports by seed."""
    costs = {(report["parameters"], report["multiply_adds"]) for report in reports.values()}
    known = next(iter(costs), (None, None))  # they all have the same model
    return Result(row, *known, {seed: report["top1"] for seed, report in reports.items()})


def write(table: int, results: Sequence[Result], about: str, folder: Path) -> Path:
    """Writes `tableN.md`, `tableN.csv` and, once there are accuracies, `tableN.png`.

    Args:
        about: Which model and images, in a line.

    Returns:
        The Markdown file.
    """
    path = folder / f"table{table}.md"
    write_text(path, as_markdown(table, results, about))
    write_text(path.with_suffix(".csv"), as_csv(results))
    if any(result.accuracies for result in results):
        draw(table, results, path.with_suffix(".png"))
    return path


def as_markdown(table: int, results: Sequence[Result], about: str) -> str:
    """The table, beside the paper's."""
    head = ["", TITLES[table], "parameters", "multiply-adds", "accuracy", "runs"]
    lines = [[*head, "paper: M", "paper: G", "paper: top-1 on ImageNet"]]
    for result in results:
        accuracy = "" if result.mean is None else f"{result.mean:.2%}"
        if result.deviation is not None:
            accuracy += f" ± {100 * result.deviation:.2f}"
        row = result.row
        lines.append(
            [
                row.letter,
                row.what,
                "" if result.parameters is None else f"{result.parameters:,}",
                "" if result.multiply_adds is None else f"{result.multiply_adds:,}",
                accuracy,
                str(len(result.accuracies)),
                row.parameters,
                row.multiply_adds,
                row.top1,
            ]
        )
    notes = [
        f"Paper, Table {table}. {about} Accuracies are means over seeds ± one standard deviation.",
        *filter(None, [LEFT_OUT.get(table)]),
    ]
    return "\n".join([*markdown(lines), "", *notes]) + "\n"


def as_csv(results: Sequence[Result]) -> str:
    """A line for each run; for a row without any, one without accuracy."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "model", "parameters", "multiply_adds", "seed", "accuracy"])
    for result in results:
        costs = (result.row.letter, result.row.name, result.parameters, result.multiply_adds)
        for seed, accuracy in result.accuracies.items() or [("", "")]:
            writer.writerow([*costs, seed, accuracy])
    return text.getvalue()


def draw(table: int, results: Sequence[Result], path: Path) -> None:
    """Draws the accuracies, with error bars where there are several seeds."""
    known = [result for result in results if result.accuracies]
    figure, (axes,) = _figures.grid(1, 1, (8, 1.1 + 0.45 * len(known)))
    places = range(len(known))
    for place, result in zip(places, known, strict=True):
        runs = [100 * value for value in result.accuracies.values()]
        axes.plot(runs, [place] * len(runs), ".", color="0.6")
    axes.errorbar(
        [100 * result.mean for result in known],
        places,
        xerr=[100 * (result.deviation or 0) for result in known],
        fmt="o",
        color="C0",
        capsize=4,
    )
    axes.set_yticks(places, [f"{result.row.letter}  {result.row.what}" for result in known])
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.set_xlabel("accuracy (%): runs, their mean and standard deviation")
    figure.suptitle(f"{TITLES[table]} (paper, Table {table})", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    _figures.save(figure, path, dpi=120)
