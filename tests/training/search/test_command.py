"""`python -m training.search`: what it leaves, what it survives, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import programs
import pytest
from keras import models
from tiny_runs import TINY

from keras_cvt.analysis.complexity import complexity
from keras_cvt.structure import structure_of
from training import configs, startup
from training.search.command import main
from training.search.evaluator import CandidateEvaluator

SETTINGS = [
    *(text for text in TINY if text.partition("=")[0] in ("image_size", "batch_size", "ema")),
    "epochs=1",
    "warmup_epochs=0",
    "drop_path_rate=none",
    'stages=[{"embed_dim": 8, "depth": 2, "num_heads": 1, "patch_stride": 4, "class_token": true}]',
    "search_trials=5",
    "search_population=3",
    "search_calibration=1",
]
ARGUMENTS = ["--config", "digits", *(f"--set={text}" for text in SETTINGS), "--max-params", "2500"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "run"
    assert main([*ARGUMENTS, "--run-dir", str(folder)]) == 0
    return folder


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_what_a_search_leaves(finished):
    assert {path.name for path in finished.iterdir()} == {
        *("shared", "study.journal", "trials.csv", "front.csv", "front.png"),
        *("stages.json", "stages-chance.json", "report.json"),
    }
    report = report_of(finished)
    assert (report["candidates"], report["held_out_images"]) == (16, 144)
    with open(finished / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["search"] for row in rows] == ["evolution"] * 5 + ["chance"] * 5
    assert all(int(row["parameters"]) <= 2500 for row in rows)
    evolved = [row for row in rows if row["search"] == "evolution"]
    assert report["evolution"]["accuracy"] == pytest.approx(
        max(float(row["accuracy"]) for row in evolved), abs=1e-6
    )
    # The network whose weights were shared is the largest: stride 1, ratio 4.
    shared = models.load_model(finished / "shared" / "model.keras")
    (stage,) = structure_of(shared).configs
    assert (stage.stride_kv, stage.mlp_ratio) == (1, 4)


def test_other_commands_take_what_was_chosen(finished):
    """`training.train --set stages=FILE`, from scratch."""
    config = configs.load("digits", [f"stages={finished / 'stages.json'}", "drop_path_rate=none"])
    chosen = report_of(finished)["evolution"]
    cost = complexity(config.model.architecture(), (16, 16, 1), 10)
    assert cost.multiply_adds == chosen["multiply_adds"]
    assert cost.parameters == chosen["parameters"] <= 2500


def test_a_search_that_was_interrupted_ends_as_if_it_had_not_been(
    finished, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(finished / "shared", folder / "shared")
    evaluated = []
    evaluate = CandidateEvaluator.evaluate

    def interrupted(self, candidate):
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        evaluated.append(candidate)
        return evaluate(self, candidate)

    monkeypatch.setattr(CandidateEvaluator, "evaluate", interrupted)
    arguments = [*ARGUMENTS, "--run-dir", str(folder)]
    assert main(arguments) == 130
    assert "goes on where it was interrupted" in capsys.readouterr().err
    assert not (folder / "report.json").exists()
    monkeypatch.undo()
    assert main(arguments) == 0
    assert report_of(folder) == report_of(finished)
    assert (folder / "trials.csv").read_text() == (finished / "trials.csv").read_text()


def test_a_finished_search_evaluates_no_more(finished, monkeypatch, capsys):
    monkeypatch.setattr(CandidateEvaluator, "evaluate", lambda *_: pytest.fail("evaluated again"))
    assert main([*ARGUMENTS, "--run-dir", str(finished)]) == 0
    assert "By evolution: 5 evaluated" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set=search_space=3"], "`search_space` must be an object"),
        (["--set", 'search_space={"all": {"mlp_ratio": [2]}}'], "No block has more than one value"),
        (["--set=search_trials=0"], "`search_trials` must be at least 1"),
        (["--set=search_held_out=100"], "`search_held_out` must be more than 0 and less than 100"),
        (["--set=search_population=1"], "`search_population` must be at least 2"),
        (["--set=train_split=train[:50%]"], "`train_split` must be a whole part"),
        (["--set=weights=imagenet"], "`weights` can't be used in a search"),
        (["--set=jit_compile=true"], "`jit_compile` must be false"),
        (["--set=recompute=true"], "`recompute` can't be used in a search"),
        (["--strategy=multi_worker"], "the devices of one machine"),
        (["--max-macs=-1"], "--max-macs: must be a number, above 0"),
        (["--max-params=many"], "--max-params: must be a number"),
        (["--trials=3"], "unrecognized arguments: --trials=3"),
    ],
)
def test_mistakes_are_answered_in_one_line_before_any_work(
    arguments, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(startup, "quiet_tensorflow", lambda: pytest.fail("work has begun"))
    run_dir = tmp_path / "run"
    assert main(["--config", "digits", *arguments, "--run-dir", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not run_dir.exists()


def test_without_optuna(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    run_dir = tmp_path / "run"
    assert main(["--config", "digits", "--run-dir", str(run_dir)]) == 2
    error = capsys.readouterr().err
    assert "optuna is not installed" in error and ".[search]" in error
    assert error.count("\n") == 1 and not run_dir.exists()


def test_limits_and_settings_of_another_search(finished, capsys):
    arguments = [*ARGUMENTS, "--run-dir", str(finished)]
    assert main([*arguments, "--max-macs", "1e9"]) == 2
    assert "The search that is there has other limits" in capsys.readouterr().err
    assert main([*arguments, "--set=search_random=1"]) == 2
    assert "search_random (2 there, 1 asked)" in capsys.readouterr().err


@pytest.mark.slow("search")
def test_a_search_that_is_killed_anywhere_ends_as_an_undisturbed_one(tmp_path):
    """On two devices: the network's training, and the comparing."""
    arguments = [*ARGUMENTS, "--set=checkpoint_steps=1", "--set=epochs=2", "--set=logical_cpus=2"]
    command = ["-m", "training.search", *arguments, "--strategy=mirrored", "--run-dir"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    programs.run(*command, undisturbed)

    def trained() -> bool:
        return any((killed / "shared" / "checkpoints").glob("step-*"))

    def evaluated() -> bool:
        journal = killed / "study.journal"
        # Optuna's number for a trial that has ended.
        text = journal.read_text().replace(" ", "") if journal.exists() else ""
        return text.count('"op_code":6') >= 2

    for reached in (trained, evaluated):
        process = programs.start(*command, killed)
        while not reached():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "report.json").exists()
    assert "Going on after step" not in programs.run(*command, killed)  # it had been trained
    assert report_of(killed) == report_of(undisturbed)
    assert (killed / "trials.csv").read_text() == (undisturbed / "trials.csv").read_text()
    weights = [
        models.load_model(folder / "shared" / "model.keras").get_weights()
        for folder in (undisturbed, killed)
    ]
    for one, other in zip(*weights, strict=True):
        assert (one == other).all()
