"""A run's folder, and what is in it that should not be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_runs import TINY_CONFIG

from training import compare, demo, evaluate, supervise, train
from training.config import ConfigError
from training.runs.folder import _FIGURES, RunFolder, open_run
from training.runs.report import summary
from training.runs.run_checkpoints import RunCheckpoint

ASKED = json.dumps(TINY_CONFIG.to_dict())


@pytest.mark.parametrize("name", ["", " ", "gs://bucket/run", "s3://bucket", "hdfs:/run"])
@pytest.mark.parametrize(
    ("main", "before", "after"),
    [
        (train.main, ["--config", "digits", "--run-dir"], []),
        (train.main, ["--config", "digits", "--resume"], []),
        (supervise.main, ["--", "--config", "digits", "--run-dir"], []),
        (demo.main, ["--run-dir"], []),
        (compare.main, [], ["--output", "runs.png"]),
        (evaluate.main, ["--model"], []),
    ],
    ids=["train", "resume", "supervise", "demo", "compare", "evaluate"],
)
def test_only_folders_of_this_machine_that_are_named(
    name, main, before, after, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main([*before, name, *after]) == 2
    said = capsys.readouterr().err
    assert f"Received {name!r}." in said and said.count("\n") == 1
    assert not [*tmp_path.iterdir()]


OTHER_JSON = ["[1]", "3", '"text"', "null", "{", "[" * 100_000]


@pytest.mark.parametrize("text", OTHER_JSON, ids=lambda text: text[:6])
def test_json_of_another_kind_is_told_in_a_line(text, tmp_path, capsys):
    folder = RunFolder(tmp_path)
    arguments = ["--config", "digits", "--run-dir", str(tmp_path)]
    for path, other in ((folder.config, folder.report), (folder.report, folder.config)):
        other.unlink(missing_ok=True)
        path.write_text(text)
        assert train.main(arguments) == 2
        assert demo.main(["--run-dir", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 2 and f"can't be used: {path}" in said
    folder.config.write_text(text)
    assert compare.main([str(tmp_path), "--output", str(tmp_path / "runs.png")]) == 2
    assert f"is no folder of a run: {folder.config}" in capsys.readouterr().err


def test_a_report_without_its_numbers(tmp_path):
    folder = RunFolder(tmp_path)
    folder.config.write_text(ASKED)
    folder.report.write_text('{"top1": "high"}')
    with pytest.raises(ConfigError, match=r"report.json is no report of a run: .* 'top1'"):
        open_run(TINY_CONFIG, tmp_path)
    with pytest.raises(ConfigError, match="can't be used: .* has no number 'top1'"):
        folder.read_finished()


def test_a_config_that_was_edited_by_hand(tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.report.write_text(json.dumps(dict.fromkeys(_FIGURES, 1)))
    for key, value, said in (
        ("epochs", "3", "`epochs` must be"),
        ("color", 1, "no setting 'color'"),
    ):
        folder.config.write_text(json.dumps({**TINY_CONFIG.to_dict(), key: value}))
        assert evaluate.main(["--model", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert f"can't be used: {folder.config}: " in told and said in told
        assert "Train first" not in told  # it has been


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "history.csv", "model.keras"])
def test_files_and_folders_in_each_others_places(name, tmp_path):
    if "." in name:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"can't be used: .*/{name} must be a f"):
        open_run(TINY_CONFIG, tmp_path)


def test_a_model_that_is_gone_is_not_called_there(tmp_path):
    report = dict.fromkeys(_FIGURES, 1)
    assert "model.keras  is gone; without report.json" in summary(report, tmp_path)
    RunFolder(tmp_path).model.touch()
    assert "model.keras  the trained model" in summary(report, tmp_path)


def test_folders_are_removed_only_if_they_were_made(tmp_path):
    (tmp_path / "mine").mkdir()
    for run_dir in (tmp_path / "mine", tmp_path / "a" / "b" / "c"):
        assert (
            train.main(["--config", "digits", "--set", "source=no", "--run-dir", str(run_dir)]) == 2
        )
    assert [*tmp_path.iterdir()] == [tmp_path / "mine"]


@pytest.mark.parametrize("text", ["epoch,loss\n1", "epoch\nmany", "epoch,\0\n1,2", '"\n'])
def test_a_history_of_something_else(text, tmp_path, capsys):
    folder = RunFolder(tmp_path)
    folder.config.write_text(ASKED)
    folder.history.write_text(text)
    assert compare.main([str(tmp_path), "--output", str(tmp_path / "runs.png")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("config", [None, ""], ids=["missing", "empty"])
def test_checkpoints_of_which_nobody_knows_the_config_are_left_alone(config, tmp_path):
    folder = RunFolder(tmp_path)
    if config is not None:
        folder.config.write_text(config)
    assert open_run(TINY_CONFIG, tmp_path) is None
    arrays = {"kernel": np.zeros(3)}
    folder.read_checkpoints().save(RunCheckpoint(7, arrays, {}))
    with pytest.raises(ConfigError, match="up to step 7, but no config.json that says of which"):
        open_run(TINY_CONFIG, tmp_path)
    folder.config.write_text(ASKED)
    assert open_run(TINY_CONFIG, tmp_path) is None


@pytest.mark.parametrize(("name", "config"), [("digits", "digits"), ("mine", "NAME")])
def test_an_unfinished_run_says_how_to_train_it(tmp_path, name, config):
    with pytest.raises(ConfigError, match=f"Train first: .* --config {config} --run-dir .*{name}"):
        RunFolder(tmp_path / name).read_finished()
