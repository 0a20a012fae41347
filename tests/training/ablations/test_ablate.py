"""`python -m training.ablate`: the runs of a table, and what is written of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tiny_runs import TINY

from training import ablate, configs
from training.ablations.results import Result, as_csv, as_markdown
from training.ablations.tables import rows
from training.config import Config
from training.runs.folder import RunFolder

DIGITS = configs.load("digits").model.architecture()


def report(top1: float) -> dict:
    figures = "top5 loss correct images epochs seconds images_per_second"
    return {
        **dict.fromkeys(figures.split(), 1),
        "top1": top1,
        "parameters": 1234,
        "multiply_adds": 56789,
    }


@pytest.fixture
def trained(monkeypatch) -> list[Path]:
    """The folders of the runs that were trained, of which each ends at once."""
    folders = []

    def train(self):
        folders.append(self.folder)
        self.folder.mkdir(parents=True)
        config = configs.load(self._name, self._settings)
        folder = RunFolder(self.folder)
        folder.config.write_text(json.dumps(config.to_dict()))
        folder.report.write_text(json.dumps(report(0.5 + len(folders) / 100)))
        return 0

    monkeypatch.setattr(ablate.Run, "train", train)
    return folders


def command(folder: Path, *arguments: str, table: int = 7) -> int:
    start = ["--table", str(table), "--config", "digits", "--run-dir", str(folder)]
    return ablate.main([*start, *arguments])


def config_of(folder: Path) -> Config:
    return Config.from_dict(json.loads((folder / "config.json").read_text()))


def test_each_row_is_a_run_for_each_seed(trained, tmp_path, capsys):
    assert command(tmp_path, "--seeds", "2", "--set", "epochs=7") == 0
    places = [str(folder.relative_to(tmp_path)) for folder in trained]
    assert places == ["stride-1/seed-0", "plain/seed-0", "stride-1/seed-1", "plain/seed-1"]
    for folder, stride, seed in zip(trained, (1, 2, 1, 2), (0, 0, 1, 1), strict=True):
        config = config_of(folder)
        assert (config.optimization.epochs, config.run.seed) == (7, seed)
        assert {stage.stride_kv for stage in config.model.architecture()} == {stride}
        assert [stage.embed_dim for stage in config.model.architecture()] == [32, 64, 128]
        assert config.model.architecture()[-1].drop_path_rate == 0.1
    table = (tmp_path / "table7.md").read_text()
    assert "| a | stride 1 | 1,234 | 56,789 | 52.00% ± 1.41 | 2 | 20 | 6.55 | 82.3 |" in table
    assert "| b | stride 2 | 1,234 | 56,789 | 53.00% ± 1.41 | 2 | 20 | 4.53 | 81.6 |" in table
    assert "`digits epochs=7`" in table and table in capsys.readouterr().out
    with open(tmp_path / "table7.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["seed"], line["accuracy"]) for line in lines] == [
        ("a", "0", "0.51"),
        ("a", "1", "0.53"),
        ("b", "0", "0.52"),
        ("b", "1", "0.54"),
    ]
    assert (tmp_path / "table7.png").read_bytes().startswith(b"\x89PNG")


def test_finished_runs_are_not_trained_again_also_those_of_other_tables(trained, tmp_path):
    assert command(tmp_path, "--seeds", "1") == 0
    assert command(tmp_path, "--seeds", "1") == 0
    assert len(trained) == 2
    assert command(tmp_path, "--seeds", "1", table=8) == 0
    assert [folder.parent.name for folder in trained[2:]] == [
        *("convolutional-0", "convolutional-1", "convolutional-2")
    ]
    assert "53" not in (tmp_path / "table8.md").read_text().splitlines()[-3]
    assert command(tmp_path, "--seeds", "3") == 0
    assert len(trained) == 5 + 4


def test_the_first_run_that_fails_ends_it_and_what_is_known_is_written(
    trained, tmp_path, monkeypatch
):
    train = ablate.Run.train
    monkeypatch.setattr(ablate.Run, "train", lambda run: 3 if len(trained) == 1 else train(run))
    assert command(tmp_path, "--seeds", "2") == 3
    table = (tmp_path / "table7.md").read_text()
    assert "| a | stride 1 | 1,234 | 56,789 | 51.00% | 1 |" in table
    assert "| b | stride 2 |  |  |  | 0 |" in table
    monkeypatch.setattr(ablate.Run, "train", train)
    assert command(tmp_path, "--seeds", "2") == 0
    assert len(trained) == 4


def test_a_run_of_another_config_is_told_before_any_is_trained(trained, tmp_path, capsys):
    assert command(tmp_path, "--seeds", "1") == 0
    capsys.readouterr()
    assert command(tmp_path, "--seeds", "2", "--set", "learning_rate=0.5") == 2
    error = capsys.readouterr().err
    assert "learning_rate (0.001 there, 0.5 asked)" in error and error.count("\n") == 1
    assert len(trained) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "4"], "--table: invalid choice: 4"),
        (["--seeds", "0"], "--seeds: must be an integer, at least 1"),
        (["--set", "weights=imagenet"], "`weights` must be none"),
        (["--set", "epoch=3"], "Did you mean 'epochs'?"),
        (["--config", "digit"], "Did you mean 'digits'?"),
        (["--set", "patch=64,1,0"], "too small"),
    ],
)
def test_mistakes_are_answered_in_one_line_before_any_run(
    arguments, said, trained, tmp_path, capsys
):
    folder = tmp_path / "runs"
    assert command(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not trained and not folder.exists()


def test_costs_train_nothing(trained, tmp_path, capsys):
    assert command(tmp_path / "no", "--config", "cvt13_imagenet_224", "--costs", table=6) == 0
    said = capsys.readouterr().out
    assert "| a | patches | 19,561,064 | 4,425,797,120 |  | 0 | 19.5 |  | 80.7 |" in said
    assert not trained and not (tmp_path / "no").exists()


def test_a_row_without_runs():
    result = Result(rows(5, DIGITS)[0], None, None)
    assert result.mean is None and result.deviation is None
    assert "| c | in every stage |  |  |  | 0 | 20 |  | 81.5 |" in as_markdown(5, [result], "")
    assert "DeiT-S" in as_markdown(5, [result], "")
    assert as_csv([result]).splitlines()[1] == "c,position-every,,,,"


@pytest.mark.slow("ablate")
def test_a_table_of_real_runs(tmp_path):
    tiny = [part for text in TINY if "dims" not in text for part in ("--set", text)]
    small = ["--set", "dims=8,16", "--set", "depths=1,1", "--set", "heads=1,2", "--set", "epochs=2"]
    patch = ["--set", "patch=3,2,1"]
    assert command(tmp_path, "--seeds", "2", *tiny, *small, *patch) == 0
    with open(tmp_path / "table7.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["row"] for line in lines] == ["a", "a", "b", "b"]
    for line in lines:
        folder = tmp_path / line["model"] / f"seed-{line['seed']}"
        found = json.loads((folder / "report.json").read_text())
        assert float(line["accuracy"]) == found["top1"]
        assert int(line["multiply_adds"]) == found["multiply_adds"]
    assert len({line["accuracy"] for line in lines}) > 1
