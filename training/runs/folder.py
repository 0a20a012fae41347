"""A run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training import config as configs
from training.config import Config, ConfigError
from training.engine.run_checkpoints import RunCheckpoints


def open_run(config: Config, run_dir: Path) -> dict[str, Any] | None:
    """Makes the run's folder if there is none; returns the report if the run is finished.

    Raises:
        ConfigError: if the folder can't be used, or has a run with another config.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        asked_before = json.loads(_read(run_dir / "config.json") or "null")
        report = json.loads(_read(run_dir / "report.json") or "null")
        differences = [] if asked_before is None else config.differences(asked_before)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"The run folder {run_dir} can't be used: {error}") from None
    if differences:
        raise ConfigError(
            f"{run_dir} has a run with another config: {'; '.join(differences)}. Ask for the same, or "
            "choose another --run-dir."
        )
    return report


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def other_run(config: Config, resume: Path | None) -> list[RunCheckpoints]:
    """The checkpoints of another run, to go on from if the run itself has none.

    Raises:
        ConfigError: if there are none, or the other run has another config.
    """
    if resume is None:
        return []
    try:
        asked_before = json.loads((resume / "config.json").read_text(encoding="utf-8"))
        differences = config.differences(asked_before)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"--resume {resume} is no run's folder: {error}") from None
    if differences:
        raise ConfigError(f"--resume {resume} has another config: {'; '.join(differences)}.")
    other = RunCheckpoints(resume / "checkpoints", keep=1)
    if not other.steps():
        raise ConfigError(f"--resume {resume} has no complete checkpoint.")
    return [other]


def read_run(run_dir: Path) -> tuple[Config, dict[str, Any]]:
    """The config and the report of a finished run.

    Raises:
        ConfigError: if it is not there, or not finished.
    """
    try:
        config = Config.from_dict(json.loads((run_dir / "config.json").read_text()))
        return config, json.loads((run_dir / "report.json").read_text())
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{run_dir} has no finished run: {error}. Train first: python -m training.train --config "
            f"{configs.names()[0]} --run-dir {run_dir}"
        ) from None
