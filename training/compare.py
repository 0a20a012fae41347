"""Compares runs: `python -m training.compare RUN_DIR... --output FILE`.

Draws the curves of all runs into one picture, and prints the settings in which they differ, and what
has come of them: the numbers of each run's last finished epoch. A run that still goes on can be
compared too.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_cvt._commands import WRONG_USE, Parser, check_suffix, command
from keras_cvt._files import check_file, read_json
from keras_cvt._tables import aligned
from training.config import ConfigError
from training.config.settings import as_text
from training.runs.folder import RunFolder, run_folder

PICTURES = (".png", ".svg", ".pdf")

# Numbers of an epoch that are results, and how they are written.
RESULTS = {
    "epoch": "{:.0f}",
    "val_top1": "{:.2%}",
    "val_top5": "{:.2%}",
    "val_loss": "{:.4f}",
    "loss": "{:.4f}",
    "images_per_second": "{:.0f}",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What is left of a run in its folder.

    Attributes:
        name: the folder.
        settings: `config.json`.
        epochs: `history.csv`, a line for each finished epoch.
        finished: whether there is a report.
    """

    name: str
    settings: dict[str, Any]
    epochs: list[dict[str, float]]
    finished: bool


@command("training.compare", {ConfigError: WRONG_USE, OSError: WRONG_USE})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 2 can't be done as asked."""
    parser = Parser(
        prog="training.compare", description=__doc__.partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "runs", nargs="+", type=run_folder, metavar="RUN_DIR", help="folders of runs"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help=" or ".join(PICTURES)
    )
    arguments = parser.parse_args(argv)
    compare(arguments.runs, arguments.output)


def compare(folders: Sequence[Path], output: Path) -> None:
    """Draws the curves of runs into one picture, and prints how they differ.

    Args:
        folders: of the runs.
        output: the picture, a PNG, SVG or PDF; replaced if it is there.

    Raises:
        ConfigError: for a folder that is no run's, or is given twice.
        UsageError: for an output with another ending.
        OSError: for an output that can't be written.
    """
    check_suffix(output, PICTURES)
    check_file(output)
    runs = [read(folder) for folder in folders]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"Each run must be given once. Received {', '.join(names)}.")

    from training.runs import curves  # matplotlib takes a second to import

    curves.save_comparison({run.name: run.epochs for run in runs}, output)
    print(table(runs))
    print(f"\n{output}: their curves.")


def read(folder: Path) -> Run:
    """A run, from its folder.

    Raises:
        ConfigError: if it has none, or no epoch of it is finished.
    """
    run = RunFolder(folder)
    try:
        settings = read_json(run.config)
        epochs = run.read_history()
        missing = {*RESULTS, "top1", "learning_rate"} - {*(epochs[0] if epochs else ())}
        if epochs and missing:
            raise ValueError(f"history.csv has no {sorted(missing)[0]}")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} is no folder of a run: {error}") from None
    if not epochs:
        raise ConfigError(f"The run in {folder} has not finished an epoch yet.")
    return Run(str(folder), settings, epochs, run.report.exists())


def table(runs: Sequence[Run]) -> str:
    """The settings in which runs differ, a line; and their results. A column for each run."""
    keys = {key: None for run in runs for key in run.settings}
    lines = [["", *(run.name for run in runs)]]
    for key in keys:
        values = [run.settings.get(key, "–") for run in runs]
        if any(value != values[0] for value in values):
            lines.append([key, *map(as_text, values)])
    if len(runs) > 1 and len(lines) == 1:
        lines.append(["settings", *["the same"] * len(runs)])
    border = len(lines)
    for key, form in RESULTS.items():
        lines.append([key, *(form.format(run.epochs[-1][key]) for run in runs)])
    lines.append(["finished", *("yes" if run.finished else "no" for run in runs)])
    texts = aligned(lines)
    rule = "-" * max(map(len, texts))
    return "\n".join(
        [texts[0], rule, *texts[1:border], *([rule] if border > 1 else []), *texts[border:]]
    )


if __name__ == "__main__":
    sys.exit(main())
