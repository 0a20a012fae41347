"""Tests of training/train.py: what is asked, what a run leaves, and what it leaves alone."""

from __future__ import annotations

import csv
import json
import math

import keras
import numpy as np
import programs
import pytest
import tensorflow as tf
from tiny_runs import STEPS, TINY, TINY_CONFIG, changed

from training import data, optim, startup, train
from training.config import Config, ConfigError
from training.runs.run_checkpoints import RunCheckpoints

pytestmark = pytest.mark.usefixtures("deterministic")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "digit"], ["digits", "Did you mean 'digits'?"]),
        (["--set", "epoch=3"], ["Did you mean 'epochs'?", "batch_size", "'epoch'"]),
        (["--set", "epochs"], ["key=value", "'epochs'"]),
        (["--set", "epochs=many"], ["`epochs`", "an integer", "'many'"]),
        (["--set", "epochs=2.5"], ["`epochs`", "an integer"]),
        (["--set", "epochs=none"], ["`epochs`", "`steps`"]),
        (["--set", "learning_rate=fast"], ["`learning_rate`", "a number"]),
        (["--set", "learning_rate=nan"], ["`learning_rate`", "a number"]),
        (["--set", "dims=8,x,16"], ["`dims`", "commas", "an integer"]),
        (["--set", "dims="], ["`dims`", "commas"]),
        (["--set", "max_steps=x"], ["`max_steps`", "an integer or none"]),
        (["--set", "max_steps=0"], ["`max_steps`", "at least 1"]),
        (["--set", "steps=7"], ["`epochs` and `steps`", "none"]),
        (["--set", "mix_images=7"], ["`batch_size`", "`mix_images`"]),
        (["--set", "max_shift=32"], ["`max_shift`", "less than `image_size`", "32 and 32"]),
        (["--set", "evaluation_crop=1e-9"], ["`evaluation_crop`", "0.01 to 1", "1e-09"]),
        (["--set", "logical_cpus=100000"], ["`logical_cpus`", "from 1 to 64"]),
        (["--set", "accumulation=7"], ["`batch_size`", "`accumulation`"]),
        (["--set", "crop_scale=0.5"], ["`crop_scale`", "0.08,1"]),
        (["--set", "stages=[1]"], ["no such model", "Stage 0 must be"]),
        (["--set", "ema=1"], ["`ema`", "less than 1"]),
        (["--strategy", "miror"], ["mirrored"]),
        (["--set", "strategy=miror"], ["`strategy`", "'mirrored'"]),
        (["--set", "clip_norm=1e-300"], ["`clip_norm`", "float32", "1e-300"]),
        (["--set", "jit_compile=true"], ["`jit_compile`", "false", "deterministic"]),
        (["--set", "heads=1,2"], ["`heads`", "3 stages"]),
        (["--set", "drop_path_rate=1"], ["`drop_path_rate`", "less than 1"]),
        (["--set", "warmup_epochs=99"], ["`warmup_epochs`", "`epochs`"]),
        (["--epochs", "3"], ["--epochs"]),
    ],
)
def test_mistakes_are_answered_in_one_line_before_any_work(
    arguments, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(startup, "quiet_tensorflow", lambda: pytest.fail("work has begun"))
    run_dir = tmp_path / "run"
    if "--config" not in arguments:
        arguments = ["--config", "digits", *arguments]
    assert train.main([*arguments, "--run-dir", str(run_dir)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1 and output.err.startswith("training.train: error: ")
    for part in said:
        assert part in output.err
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": 2000}, "1437"),
        ({"source": "digit"}, "digits"),
        ({"heads": (3,)}, "does not divide"),
        (
            {"weights": "a.keras"},
            "^The model can't be made. .*There is no such checkpoint file: 'a.ke",
        ),
        ({"logical_cpus": 64, "strategy": "mirrored"}, "can't be split"),
        ({"epochs": None, "steps": 5}, "`warmup_epochs` must be less than the run, of 1 epochs"),
    ],
)
def test_what_shows_only_later_is_still_said_before_anything_is_written(fields, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        train.train(changed(**fields), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_all_its_files_and_none_besides(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {
        "config.json",
        "labels.txt",
        "images.txt.gz",
        "checkpoints",
        "tensorboard",
        "history.csv",
        "model.keras",
        "curves.png",
        "report.json",
    }
    assert Config.from_dict(json.loads((finished_run / "config.json").read_text())) == TINY_CONFIG
    assert (finished_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert RunCheckpoints(finished_run / "checkpoints", keep=2).steps() == [14, 15]


def test_the_report_is_what_the_saved_model_does(finished_run, images):
    report = json.loads((finished_run / "report.json").read_text())
    model = keras.models.load_model(finished_run / "model.keras")
    held_out, labels = data.evaluation_arrays(TINY_CONFIG, images)
    probabilities = model.predict(held_out, verbose=0)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    correct = np.sum(probabilities.argmax(-1) == labels)
    assert report["correct"] == correct and report["images"] == 360
    assert report["top1"] == pytest.approx(correct / 360)
    best = np.argsort(probabilities, axis=-1)[:, -5:]
    assert report["top5"] == pytest.approx(np.mean(np.any(best == labels[:, None], axis=1)))
    of_label = np.take_along_axis(probabilities, labels[:, None], axis=1)
    assert report["loss"] == pytest.approx(-np.log(of_label).mean(), rel=1e-4)
    assert report["epochs"] == 3 and report["steps"] == 3 * STEPS
    # All weights of the model are learned but those that have no effect.
    assert report["parameters"] == sum(math.prod(w.shape) for w in model.trainable_weights)
    assert report["images_per_second"] > 0 and report["seconds"] > 0
    assert report["seed"] == 0 and report["strategy"].startswith("OneDeviceStrategy on 1 device")
    assert report["keras"] == keras.__version__ and report["tensorflow"] == tf.__version__


def test_the_saved_weights_are_the_averages(finished_run):
    last = RunCheckpoints(finished_run / "checkpoints", keep=2).latest().arrays
    model = keras.models.load_model(finished_run / "model.keras")
    moved = 0
    for weight in model.weights:
        average = last[weight.path.replace("/", ".") + ".average"]
        np.testing.assert_array_equal(weight.numpy(), average)
        moved += not np.array_equal(average, last[weight.path])
    assert moved > len(model.weights) / 2


def test_curves_are_kept_as_numbers(finished_run):
    epochs = list(csv.DictReader((finished_run / "history.csv").open()))
    assert [(row["epoch"], row["step"]) for row in epochs] == [("1", "5"), ("2", "10"), ("3", "15")]
    names = (
        "loss top1 top5 gradient_norm val_loss val_top1 val_top5 learning_rate images_per_second"
    )
    assert all(math.isfinite(float(row[name])) for row in epochs for name in names.split())
    report = json.loads((finished_run / "report.json").read_text())
    assert float(epochs[-1]["val_top1"]) == pytest.approx(report["top1"])
    # As TensorBoard reads them.
    points = {}
    for path in (finished_run / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                points.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    assert sorted(points["validation/top1"]) == [5, 10, 15]
    assert points["validation/top1"][15] == pytest.approx(report["top1"])
    assert sorted(points["train/gradient_norm"]) == list(range(2, 15, 2))
    rate = optim.schedule(TINY_CONFIG, STEPS)
    for step, value in points["train/learning_rate"].items():
        assert value == pytest.approx(float(rate(step - 1)), rel=1e-5)
    assert {"train/loss", "train/top1", "train/top5", "train/images_per_second"} <= points.keys()


def test_a_batch_that_cannot_be_had_leaves_no_config(tmp_path, monkeypatch):
    """Or the folder would refuse the config that is right."""

    def refuse(*_, **__):
        raise ConfigError("`mix_images` must divide the images per worker and step")

    monkeypatch.setattr(data, "training_batches", refuse)
    with pytest.raises(ConfigError, match="`mix_images`"):
        train.train(TINY_CONFIG, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_finished_run_is_not_trained_again(finished_run, capsys, monkeypatch):
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    sets = programs.settings(*TINY)
    assert train.main(["--config", "digits", *sets, "--run-dir", str(finished_run)]) == 0
    said = capsys.readouterr().out
    assert "finished already" in said and "Validation accuracy" in said
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}


def test_a_run_with_another_config_is_left_alone(finished_run, capsys, monkeypatch):
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained"))
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    sets = programs.settings(*TINY, "seed=4", "dims=32")
    assert train.main(["--config", "digits", *sets, "--run-dir", str(finished_run)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "seed (0 there, 4 asked)" in said and "dims ([16] there, [32] asked)" in said
    assert "epochs" not in said
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}


def test_a_folder_that_cannot_be_used_is_an_error_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert train.main(["--config", "digits", "--run-dir", str(tmp_path / "file")]) == 2
    (tmp_path / "config.json").write_text("no json")
    assert train.main(["--config", "digits", "--run-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 2 and said.count("can't be used") == 2


def test_interrupting_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(startup, "make_deterministic", interrupted)
    assert train.main(["--config", "digits", "--run-dir", str(tmp_path)]) == 130
    assert "goes on" in capsys.readouterr().err
