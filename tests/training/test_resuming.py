"""Stopping a run changes nothing: it goes on to the same weights, bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import keras
import numpy as np
import programs
import pytest
from tiny_runs import TINY, TINY_CONFIG, changed

from training import optim, train
from training.engine.model import build_model
from training.runs.run_checkpoints import RunCheckpoints

pytestmark = pytest.mark.usefixtures("deterministic")


def weights_of(run_dir: Path) -> dict[str, np.ndarray]:
    model = keras.models.load_model(run_dir / "model.keras")
    return {weight.path: weight.numpy() for weight in model.weights}


def same_end(run_dir: Path, undisturbed: Path) -> None:
    """Both runs have the same model, states and history, bit for bit."""
    one, two = (RunCheckpoints(d / "checkpoints", keep=2).latest() for d in (undisturbed, run_dir))
    assert one.step == two.step and one.arrays.keys() == two.arrays.keys()
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(two.arrays[name], values, err_msg=name)
    for epoch, other in zip(one.state["epochs"], two.state["epochs"], strict=True):
        for name in set(epoch) - {"seconds", "training_seconds", "images_per_second"}:
            assert epoch[name] == other[name], name
    expected, found = weights_of(undisturbed), weights_of(run_dir)
    assert expected.keys() == found.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(finished_run, tmp_path, capsys):
    go = ["--config", "digits", *programs.settings(*TINY), "--run-dir", str(tmp_path)]
    killed = programs.start("-m", "training.train", *go)
    deadline = time.monotonic() + programs.PATIENCE
    while not list(tmp_path.glob("checkpoints/step-*.json")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # Meanwhile, nobody else may write there.
    assert train.main(go) == 2
    assert f"is being written by process {killed.pid}" in capsys.readouterr().err
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "report.json").exists()
    (tmp_path / ".partial-report.json").write_text("of the killed process")

    report = train.train(TINY_CONFIG, tmp_path)
    assert "Going on after step" in capsys.readouterr().out
    same_end(tmp_path, finished_run)
    undisturbed = json.loads((finished_run / "report.json").read_text())
    for key in ("top1", "loss", "epochs", "steps"):
        assert report[key] == undisturbed[key]
    files = [{p.name for p in d.iterdir()} for d in (finished_run, tmp_path)]
    assert files[0] == files[1]


@pytest.mark.slow
def test_a_run_stops_at_any_step_and_goes_on_elsewhere(finished_run, tmp_path, capsys):
    here, there = tmp_path / "here", tmp_path / "there"
    sets = programs.settings(*TINY)
    go = ["--config", "digits", *sets]
    assert train.main([*go, "--set", "max_steps=7", "--run-dir", str(here)]) == 0
    assert "Stopped at step 7" in capsys.readouterr().out
    # Asked again, there is nothing to do; the run isn't finished by that.
    assert train.main([*go, "--set", "max_steps=7", "--run-dir", str(here)]) == 0
    assert "Stopped at step 7" in capsys.readouterr().out
    assert not (here / "report.json").exists()
    # What was written last is damaged: the one before it serves, and says so.
    (newest,) = here.glob("checkpoints/step-00000007.safetensors")
    newest.write_bytes(newest.read_bytes()[:-1])
    assert train.main([*go, "--resume", str(here), "--run-dir", str(there)]) == 0
    said = capsys.readouterr()
    assert "Going on after step 6." in said.out and "step-00000007" in said.err
    same_end(there, finished_run)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is no run's folder"), ({"seed": 5}, "seed (5 there, 0 asked)"), ({}, "no complete")],
)
def test_a_run_to_go_on_from_must_fit(content, said, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    if content is not None:
        fields = {**TINY_CONFIG.to_dict(), **content}
        (other / "config.json").write_text(json.dumps(fields))
    sets = programs.settings(*TINY)
    arguments = ["--config", "digits", *sets, "--resume", str(other)]
    assert train.main([*arguments, "--run-dir", str(tmp_path / "run")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_has_everything(finished_run, images):
    names = RunCheckpoints(finished_run / "checkpoints", keep=2).latest().arrays
    model = build_model(TINY_CONFIG, images)
    weights = {weight.path for weight in model.weights}
    assert weights <= names.keys()
    assert {path.replace("/", ".") + ".average" for path in weights} <= names.keys()
    optim.freeze_without_effect(model)
    # the number of steps, the learning rate's place, and two moments for each weight that is learned
    moments = [name for name in names if name.endswith(("_momentum", "_velocity"))]
    assert len(moments) == 2 * len(model.trainable_weights)
    assert sum(name.startswith("seeds/") for name in names) == 1
    assert sum(name.startswith("means/") for name in names) == 6


def test_a_run_in_steps_goes_on_without_the_weights_that_it_began_with(
    finished_run, tmp_path, capsys, eager
):
    begin = shutil.copy(finished_run / "model.keras", tmp_path / "begin.keras")
    config = changed(weights=str(begin), epochs=None, steps=7, warmup_epochs=0, ema=None)
    run_dir = tmp_path / "run"
    assert train.train(config.replace(max_steps=1), run_dir) is None
    assert "Stopped at step 1, as asked." in capsys.readouterr().out
    Path(begin).unlink()
    report = train.train(config, run_dir)
    # It ends within an epoch.
    assert report["steps"] == 7 and report["epochs"] == 2
    state = RunCheckpoints(run_dir / "checkpoints", keep=2).latest().state
    assert [epoch["step"] for epoch in state["epochs"]] == [5, 7]
    assert (run_dir / "model.keras").exists()
