"""Trains one of the paper's ablation tables: `python -m training.ablate --table N --config NAME`.

    python -m training.ablate --table 6 --config cvt13_imagenet_224 --seeds 3
    python -m training.ablate --table 6 --config cvt13_imagenet_224 --costs

Tables are 5, 6, 7 and 8. Each row is a run of the config for each seed, with the row's model (see
`training.ablations.tables`), in `RUN_DIR/MODEL/seed-N`: an ordinary run of `training.train`, in a
process of its own. A run that is finished is not trained again, and one that was stopped goes on; rows
of the same model, in several tables, share their runs. After each run, `RUN_DIR/tableN.md`, `.csv` and
`.png` have what is known.

`--costs` trains nothing, and prints parameters and multiply-adds beside the paper's, for color images
and 1000 classes.

Exit status: that of the first run that fails, see `training.train`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_cvt import _backend
from keras_cvt._commands import Parser, command, integer
from keras_cvt._files import json_text
from keras_cvt.architecture import StageConfig, stages_to_json
from training import configs, train
from training.ablations import tables
from training.config import Config, ConfigError
from training.runs.folder import RunFolder, default_folder, open_run, run_folder

# Settings that say which model is trained; each row has its own.
_OF_THE_MODEL = ("model", "dims", "depths", "heads", "patch", "stages", "weights")


@command(
    "training.ablate",
    train.STATUSES,
    interrupted="The same command goes on where it was interrupted.",
)
def main(argv: Sequence[str] | None = None) -> int | None:
    """The command; returns its exit status."""
    arguments = _parser().parse_args(argv)
    config = configs.load(arguments.config, arguments.set)
    folder = arguments.run_dir or default_folder(f"{arguments.config}-ablations")
    rows = tables.rows(arguments.table, config.model.architecture())
    try:
        models = {row.name: tables.changed(config.model.architecture(), row) for row in rows}
    except ValueError as error:
        raise ConfigError(f"Table {arguments.table} can't be made of this model. {error}") from None
    if config.model.weights is not None:
        raise ConfigError(
            f"Ablations are trained from scratch: `weights` must be none. Received "
            f"{config.model.weights!r}."
        )
    runs = {
        (name, seed): Run(arguments.config, arguments.set, stages, seed, folder / name)
        for seed in range(0 if arguments.costs else arguments.seeds)
        for name, stages in models.items()
    }
    for run in runs.values():  # all, before the first is trained
        run.check()
    _backend.start_quietly()
    from training.ablations import results

    about = f"`{' '.join([arguments.config, *arguments.set])}`."
    if arguments.costs:
        found = [results.Result(row, *_costs(models[row.name], config)) for row in rows]
        print(results.as_markdown(arguments.table, found, about), end="")
        return None

    def write() -> Path:
        reports = {key: report for key, run in runs.items() if (report := run.report()) is not None}
        found = [
            results.of_reports(row, {s: r for (name, s), r in reports.items() if name == row.name})
            for row in rows
        ]
        return results.write(arguments.table, found, about, folder)

    todo = [run for run in runs.values() if run.report() is None]
    for number, run in enumerate(todo, start=1):
        print(f"\nRun {number} of {len(todo)}: {run.folder}", flush=True)
        if status := run.train():
            return status
        write()
    written = write()
    print(f"\n{written.read_text(encoding='utf-8')}\n{written}, .csv and .png")
    return None


def _parser() -> Parser:
    parser = Parser(
        prog="training.ablate",
        description="Trains the rows of one of the paper's ablation tables, or goes on with them.",
        epilog="The keys of --set are the fields of training.config.Config.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--table", required=True, type=int, choices=tables.TITLES, help="of the paper"
    )
    configs.add_options(parser)
    parser.add_argument(
        "--seeds", type=integer(1), default=3, metavar="N", help="runs of each row; default: 3"
    )
    parser.add_argument(
        "--costs", action="store_true", help="train nothing; print parameters and multiply-adds"
    )
    parser.add_argument(
        "--run-dir", type=run_folder, metavar="DIR", help="default: runs/NAME-ablations"
    )
    return parser


class Run:
    """The run of a model with a seed.

    Args:
        name: Of the config.
        settings: Other than the config's, as for `--set`.
        stages: The model's.
        seed: Takes the place of the config's.
        folder: Of the model's runs.

    Attributes:
        folder: The run's own.
    """

    def __init__(
        self,
        name: str,
        settings: Sequence[str],
        stages: Sequence[StageConfig],
        seed: int,
        folder: Path,
    ):
        self.folder = folder / f"seed-{seed}"
        self._name = name
        kept = [text for text in settings if text.partition("=")[0] not in _OF_THE_MODEL]
        self._settings = [*kept, f"stages={json_text(stages_to_json(stages))}", f"seed={seed}"]

    def check(self) -> None:
        """Raises a ConfigError if it can't be trained as asked, as far as that shows at once."""
        config = configs.load(self._name, self._settings)
        if self.folder.exists():
            open_run(config, self.folder)

    def report(self) -> dict[str, Any] | None:
        """What the finished run says; None if it is not finished."""
        folder = RunFolder(self.folder)
        return folder.read_report() if folder.report.exists() else None

    def train(self) -> int:
        """Trains it to its end, in a process of its own; returns the exit status."""
        settings = [part for text in self._settings for part in ("--set", text)]
        command = [sys.executable, "-m", "training.train", "--config", self._name, *settings]
        return subprocess.run([*command, "--run-dir", str(self.folder)], check=False).returncode


def _costs(stages: Sequence[StageConfig], config: Config) -> tuple[int, int]:
    """Parameters and multiply-adds, of color images and 1000 classes as in the paper's tables."""
    from keras_cvt.analysis.complexity import complexity

    size = config.data.image_size
    cost = complexity(stages, (size, size, 3))
    return cost.parameters, cost.multiply_adds


if __name__ == "__main__":
    sys.exit(main())
