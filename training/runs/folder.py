"""A run's folder: which file is where, and what is read from it."""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
from pathlib import Path
from typing import Any

from keras_cvt._files import read_json, write_text
from training import configs
from training.config import Config, ConfigError
from training.runs.run_checkpoints import RunCheckpoints


def default_folder(config_name: str) -> Path:
    """Where a run goes if no folder is named."""
    return Path("runs") / config_name


def run_folder(text: str) -> Path:
    """A run's folder as `--run-dir` and its like name it; a type for `add_argument`."""
    return Path(local(text))


def local(text: str) -> str:
    """The name of a file or folder of this machine; a type for `add_argument`."""
    if not text.strip():
        raise argparse.ArgumentTypeError(
            f"must name something; . is the current folder. Received {text!r}."
        )
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        raise argparse.ArgumentTypeError(
            "must be in a file system of this machine: others can't lock, rename and flush. Received "
            f"{text!r}."
        )
    return text


# Of a report, what is read again; all numbers.
_FIGURES = ("top1", "top5", "loss", "correct", "images", "epochs", "seconds", "images_per_second")


class RunFolder:
    """The folder of a run. Nothing is made or read before it is asked for.

    Attributes:
        path: The folder.
        config: Path of the JSON file of what was asked.
        labels: Path of the text file with the names of the classes, one on each line in label order.
        images: Path of the compressed text file with the names of the images.
        checkpoints: Path of the folder of checkpoints.
        tensorboard: Path of the folder of TensorBoard's curves.
        history: Path of the CSV file of the epochs.
        model: Path of the trained model.
        curves: Path of the picture of the epochs.
        report: Path of the JSON file of the result. A run that has it is finished.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.labels = path / "labels.txt"
        self.images = path / "images.txt.gz"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.history = path / "history.csv"
        self.model = path / "model.keras"
        self.curves = path / "curves.png"
        self.report = path / "report.json"

    def check_kinds(self) -> None:
        """Checks that what is there are files where files should be, and folders where folders.

        Raises:
            ValueError: If not.
        """
        for path in vars(self).values():
            is_folder = path in (self.path, self.checkpoints, self.tensorboard)
            if os.path.lexists(path) and path.is_dir() != is_folder:
                raise ValueError(f"{path} must be a {'folder' if is_folder else 'file'}")

    def read_checkpoints(self, keep: int = 1) -> RunCheckpoints:
        """The checkpoints, of which `save` keeps the latest `keep`."""
        return RunCheckpoints(self.checkpoints, keep)

    def read_finished(self) -> tuple[Config, dict[str, Any]]:
        """The config and the report of a finished run.

        Raises:
            ConfigError: If it is not there, or not finished.
        """
        try:
            return self._read_config(), self.read_report()
        except FileNotFoundError as error:
            # By default, a run's folder is called as its config.
            name = self.path.name if self.path.name in configs.names() else "NAME"
            raise ConfigError(
                f"{self.path} has no finished run: {error}. Train first: python -m training.train "
                f"--config {name} --run-dir {self.path}"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"The run in {self.path} can't be used: {error}") from None

    def _read_config(self) -> Config:
        settings = read_json(self.config)
        try:
            return Config.from_dict(settings)
        except (TypeError, ConfigError) as error:
            raise ValueError(f"{self.config}: {error}") from None

    def read_report(self) -> dict[str, Any]:
        """The report.

        Raises:
            OSError, ValueError: If it cannot be read, or has something else.
        """
        report = read_json(self.report)
        missing = [key for key in _FIGURES if not isinstance(report.get(key), (int, float))]
        if missing:
            raise ValueError(
                f"{self.report} is no report of a run: it has no number {missing[0]!r}"
            )
        return report

    def read_history(self) -> list[dict[str, float]]:
        """The numbers of each finished epoch, by name; none if no epoch is finished.

        Raises:
            OSError, ValueError: If the file cannot be read, or has something else.
        """
        if not self.history.exists():
            return []
        try:
            with open(self.history, newline="", encoding="utf-8") as file:
                return [
                    {name: float(value) for name, value in line.items()}
                    for line in csv.DictReader(file)
                ]
        except (TypeError, ValueError, csv.Error) as error:
            raise ValueError(f"{self.history} is no table of numbers: {error}") from None

    def write_history(self, epochs: list[dict[str, float]]) -> None:
        """Writes the numbers of each epoch, a line for each, under their names."""
        text = io.StringIO()
        names = {name: None for epoch in epochs for name in epoch}
        writer = csv.DictWriter(text, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows(epochs)
        write_text(self.history, text.getvalue())


def open_run(config: Config, run_dir: Path) -> dict[str, Any] | None:
    """Makes the run's folder if there is none; returns the report if the run is finished.

    Raises:
        ConfigError: If the folder cannot be used, or has a run with another config.
    """
    folder = RunFolder(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        folder.check_kinds()
        asked_before = _settings_of(folder)
        report = folder.read_report() if folder.report.exists() else None
        differences = [] if asked_before is None else config.differences(asked_before)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The run folder {run_dir} can't be used: {error}") from None
    if differences:
        raise ConfigError(
            f"{run_dir} has a run with another config: {'; '.join(differences)}. Ask for the same, or "
            "choose another --run-dir."
        )
    return report


def _settings_of(folder: RunFolder) -> dict[str, Any] | None:
    """What was asked of the run that has begun in a folder; None if none has.

    Raises:
        OSError, ValueError: If that cannot be known.
    """
    if folder.config.exists() and folder.config.stat().st_size:
        return read_json(folder.config)
    steps = folder.read_checkpoints().steps()
    if steps:
        raise ValueError(
            f"it has checkpoints up to step {steps[-1]}, but no {folder.config.name} that says of "
            "which run. Put that back, or remove the checkpoints"
        )
    return None


def other_run(config: Config, resume: Path | None) -> list[RunCheckpoints]:
    """The checkpoints of another run, to continue from if the run itself has none.

    Raises:
        ConfigError: If there are none, or the other run has another config.
    """
    if resume is None:
        return []
    folder = RunFolder(resume)
    try:
        differences = config.differences(read_json(folder.config))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--resume {resume} is no run's folder: {error}") from None
    if differences:
        raise ConfigError(f"--resume {resume} has another config: {'; '.join(differences)}.")
    other = folder.read_checkpoints()
    if not other.steps():
        raise ConfigError(f"--resume {resume} has no complete checkpoint.")
    return [other]
