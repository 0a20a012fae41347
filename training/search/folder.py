"""The folder of a search: which file is where."""

from __future__ import annotations

from pathlib import Path

from training.runs.folder import RunFolder


class SearchFolder:
    """The folder of a search.

    Attributes:
        path: The folder.
        shared: Folder of the run of the shared network.
        journal: Path of Optuna's journal.
        trials: Path of the CSV file of all that were evaluated.
        front: Path of the CSV file of the front.
        picture: Path of the picture of both.
        stages: Path of the JSON file of the chosen architecture.
        chance: Path of the JSON file of the best that was chosen by chance.
        report: Path of the JSON file of the result. A search that has it is finished.
    """

    def __init__(self, path: Path):
        self.path = path
        self.shared = RunFolder(path / "shared")
        self.journal = path / "study.journal"
        self.trials = path / "trials.csv"
        self.front = path / "front.csv"
        self.picture = path / "front.png"
        self.stages = path / "stages.json"
        self.chance = path / "stages-chance.json"
        self.report = path / "report.json"
