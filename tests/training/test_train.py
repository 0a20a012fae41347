"""Tests of training/: what is asked, what is fed, what is kept, and that stopping changes nothing."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
import signal
import threading
import time
from pathlib import Path

import keras
import numpy as np
import programs
import pytest
import tensorflow as tf
from tensorflow.python.framework import config as tf_config
from tiny_runs import STEPS, TINY, TINY_CONFIG, changed

from training import augment, data, demo, distribute, optim, startup, train
from training.config import Config, ConfigError
from training.engine import loop
from training.engine.errors import RunError
from training.engine.model import build_model
from training.engine.step import Trainer
from training.runs.run_checkpoints import RunCheckpoints


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    """As the program has it; other tests get TensorFlow back as it was."""
    startup.make_deterministic()
    yield
    tf_config.disable_op_determinism()


@pytest.fixture(scope="module")
def images() -> data.RunData:
    return data.load(TINY_CONFIG)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    assert train.train(TINY_CONFIG, run_dir) is not None
    return run_dir


def weights_of(run_dir: Path) -> dict[str, np.ndarray]:
    model = keras.models.load_model(run_dir / "model.keras")
    return {weight.path: weight.numpy() for weight in model.weights}


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
        (["--set", "accumulation=7"], ["`batch_size`", "`accumulation`"]),
        (["--set", "crop_scale=0.5"], ["`crop_scale`", "0.08,1"]),
        (["--set", "model=cvt13"], ["`dims`", "custom"]),
        (["--set", "ema=1"], ["`ema`", "less than 1"]),
        (["--strategy", "miror"], ["mirrored"]),
        (["--set", "strategy=miror"], ["`strategy`", "'mirrored'"]),
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
        ({"logical_cpus": 64, "strategy": "mirrored"}, "can't be split"),
        ({"epochs": None, "steps": 5}, "`warmup_epochs` must be less than the run, of 1 epochs"),
    ],
)
def test_what_shows_only_later_is_still_said_before_anything_is_written(fields, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        train.train(changed(**fields), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_images_are_prepared_in_parallel_though_operations_are_deterministic(images, monkeypatch):
    started, together, met = itertools.count(1), threading.Event(), []
    real = augment.train_transform

    def slow(pixels):
        if next(started) > 1:
            together.set()
        met.append(together.wait(60))  # the first one for the second, if they run in parallel
        return pixels

    def slow_transform(*arguments, **options):
        transform = real(*arguments, **options)

        def of(index, image):
            pixels = transform(index, image)
            # Stateless: by itself it doesn't keep TensorFlow from running several at once.
            slept = tf.numpy_function(slow, [pixels], tf.float32, stateful=False)
            return tf.ensure_shape(slept, pixels.shape)

        return of

    monkeypatch.setattr(augment, "train_transform", slow_transform)
    batches = distribute.distributed(
        tf.distribute.OneDeviceStrategy("CPU:0"),
        lambda **part: data.training_batches(
            changed(batch_size=32), images, data.Damaged(0), **part
        ),
    )
    next(iter(batches))
    assert all(met)
    assert tf_config.is_op_determinism_enabled()


def test_a_run_leaves_all_its_files_and_none_besides(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {
        "config.json",
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


@pytest.mark.parametrize(
    ("step", "total", "per_epoch", "expected"),
    [
        (0, 20, 5, [(0, 20)]),
        (7, 20, 5, [(7, 10), (10, 20)]),
        (10, 20, 5, [(10, 20)]),
        (7, 23, 5, [(7, 10), (10, 20), (20, 23)]),
        (21, 23, 5, [(21, 23)]),
        (3, 4, 5, [(3, 4)]),
        (0, 4, 5, [(0, 4)]),
        (20, 20, 5, []),
    ],
)
def test_what_is_left_of_a_run_is_done_in_whole_epochs_and_parts(step, total, per_epoch, expected):
    assert loop.segments(step, total, per_epoch) == expected


def test_a_run_in_steps_may_end_within_an_epoch(tmp_path):
    config = changed(epochs=None, steps=7, warmup_epochs=0, ema=None, seed=3)
    report = train.train(config, tmp_path)
    assert report["steps"] == 7 and report["epochs"] == 2
    state = RunCheckpoints(tmp_path / "checkpoints", keep=2).latest().state
    assert [epoch["step"] for epoch in state["epochs"]] == [5, 7]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path, capsys):
    fields = [*TINY, "learning_rate=1e30", "warmup_epochs=0", "optimizer=sgd", "checkpoint_steps=1"]
    sets = programs.settings(*fields)
    assert train.main(["--config", "digits", *sets, "--run-dir", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "The loss of step 2 is" in said and "learning rate 9.89e+29" in said
    assert "The last checkpoint is of step 1." in said and "on_divergence=resume" in said


def test_a_gradient_that_is_no_number_stops_the_run_before_a_checkpoint(tmp_path, monkeypatch):
    real = Trainer._gradients

    def spoiled(self, *arguments, **options):
        gradients, sums = real(self, *arguments, **options)
        factor = tf.where(tf.equal(self.optimizer.iterations, 2), math.nan, 1.0)
        return [gradient * factor for gradient in gradients], sums

    monkeypatch.setattr(Trainer, "_gradients", spoiled)
    with pytest.raises(RunError, match="of step 3 .* norm nan. The last .* step 2"):
        train.train(changed(checkpoint_steps=1), tmp_path)


def test_too_little_memory_is_said_in_one_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(keras.Model, "fit", fail)
    with pytest.raises(RunError, match="`accumulation` takes a batch in smaller parts"):
        train.train(TINY_CONFIG, tmp_path)


def test_a_run_gets_past_a_divergence_by_other_draws(tmp_path, capsys, monkeypatch):
    real, seen = data.training_batches, []

    def spoiled(*arguments, attempt, **options):
        """The third step of the first attempt has pixels that are no numbers."""
        seen.append((options["first_step"], attempt))
        batches = real(*arguments, attempt=attempt, **options).enumerate(options["first_step"])
        bad = 2 if attempt == 0 else -1
        return batches.map(lambda i, row: (tf.where(i == bad, math.nan, row[0]), row[1]))

    monkeypatch.setattr(data, "training_batches", spoiled)
    config = changed(on_divergence="resume", epochs=1, warmup_epochs=0.5)
    report = train.train(config, tmp_path)
    assert report["attempts"] == 2 and report["steps"] == 5 and math.isfinite(report["loss"])
    assert seen == [(0, 0), (2, 1), (5, 1)] or seen == [(0, 0), (2, 1)]
    assert "Going back there for other random draws, attempt 1." in capsys.readouterr().out


def test_a_batch_that_cannot_be_had_leaves_no_config(tmp_path, monkeypatch):
    """Or the folder would refuse the config that is right."""

    def refuse(*_, **__):
        raise ConfigError("`mix_images` must divide the images per worker and step")

    monkeypatch.setattr(data, "training_batches", refuse)
    with pytest.raises(ConfigError, match="`mix_images`"):
        train.train(TINY_CONFIG, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_evaluation_takes_no_more_images_at_once_than_training(tmp_path, monkeypatch):
    real, rows = Trainer.test_step, []

    def counting(self, batch):
        rows.append(batch[0].shape[0])
        return real(self, batch)

    monkeypatch.setattr(Trainer, "test_step", counting)
    config = changed(accumulation=2, epochs=None, steps=1, warmup_epochs=0)
    assert train.train(config, tmp_path)["images"] == 360
    assert {*rows} == {256 // 2}


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(tmp_path):
    spoiled = changed(learning_rate=1e30, warmup_epochs=0, optimizer="sgd", on_divergence="resume")
    with pytest.raises(RunError, match="of step 2 is .* It has no checkpoint"):
        train.train(spoiled.replace(checkpoint_steps=None), tmp_path)


def test_a_run_that_goes_on_does_not_need_the_weights_that_it_began_with(
    finished_run, tmp_path, capsys
):
    begin = shutil.copy(finished_run / "model.keras", tmp_path / "begin.keras")
    config = changed(weights=str(begin), epochs=None, steps=2, warmup_epochs=0)
    assert train.train(config.replace(max_steps=1), tmp_path / "run") is None
    assert "Stopped at step 1, as asked." in capsys.readouterr().out
    assert train.train(config.replace(max_steps=1), tmp_path / "run") is None
    assert "Stopped at step 1, as asked." in capsys.readouterr().out
    Path(begin).unlink()
    assert train.train(config, tmp_path / "run") is not None
    assert (tmp_path / "run" / "model.keras").exists()


def test_a_full_disk_stops_the_run_and_keeps_what_is_there(tmp_path, capsys, monkeypatch):
    real, asked = shutil.disk_usage, []

    def full_at_last(path):
        asked.append(path)
        return real(path)._replace(free=0) if len(asked) > 2 else real(path)

    monkeypatch.setattr(shutil, "disk_usage", full_at_last)
    sets = programs.settings(*TINY)
    assert train.main(["--config", "digits", *sets, "--run-dir", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no space" in said and "step 4 is kept" in said
    assert RunCheckpoints(tmp_path / "checkpoints", keep=2).latest().step == 4


def test_too_many_damaged_images_stop_the_run(tmp_path, capsys, monkeypatch):
    real = data.Damaged

    class Spoiled(real):
        def __init__(self, limit, names):
            super().__init__(limit, names)
            self.error = data.DamagedError("2 images can't be read; `max_damaged` is 1: a, b")

    monkeypatch.setattr(data, "Damaged", Spoiled)

    def fail(*_, **__):
        raise tf.errors.InvalidArgumentError(None, None, "in a graph, at some node")

    monkeypatch.setattr(keras.Model, "fit", fail)
    sets = programs.settings(*TINY)
    assert train.main(["--config", "digits", *sets, "--run-dir", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert said == "training.train: error: 2 images can't be read; `max_damaged` is 1: a, b\n"


def test_a_finished_run_is_not_trained_again(finished_run, capsys, monkeypatch):
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    sets = programs.settings(*TINY)
    assert train.main(["--config", "digits", *sets, "--run-dir", str(finished_run)]) == 0
    said = capsys.readouterr().out
    assert "finished already" in said and "Held-out accuracy" in said
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


def test_demo_exports_compares_and_shows(finished_run, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("config.json", "report.json", "model.keras"):
        (run_dir / name).write_bytes((finished_run / name).read_bytes())
    assert demo.main(["--run-dir", str(run_dir), "--count", "5"]) == 0
    said = capsys.readouterr().out
    report = json.loads((run_dir / "report.json").read_text())
    assert f"360 held-out images, {report['correct']} of them right" in said
    assert len([line for line in said.splitlines() if line.rstrip(" wrong").endswith("%")]) == 5
    assert (run_dir / "predictions.png").read_bytes().startswith(b"\x89PNG")
    assert (run_dir / "saved_model" / "1" / "saved_model.pb").exists()


def test_other_answers_of_the_exported_model_are_found_out():
    answers = np.full((4, 10), 0.1, np.float32)
    other = answers.copy()
    other[2, 3] += 9e-6
    assert demo.largest_difference(other, answers) == pytest.approx(9e-6, rel=0.01)
    other[2, 3] += 2e-6
    with pytest.raises(demo.DemoError, match="differs"):
        demo.largest_difference(other, answers)
    other[2, 3] = np.nan
    with pytest.raises(demo.DemoError, match="differs"):
        demo.largest_difference(other, answers)


def test_demo_refuses_low_accuracy_and_unfinished_runs(finished_run, tmp_path, capsys):
    assert demo.main(["--run-dir", str(finished_run), "--min-top1", "1.01"]) == 1
    assert "less than 101.00%" in capsys.readouterr().err
    assert demo.main(["--run-dir", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_keras_is_really_absent_from_the_process_that_answers():
    code = """
import sys
from training import answer_without_keras as a
a.hide_keras()
print([name for name in (*a.ABSENT, "json") if a._can_import(name)])
"""
    assert programs.run("-c", code).strip() == "['json']"
