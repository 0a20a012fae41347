"""Tests of training/: what is asked, what is fed, what is kept, and that stopping changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import config as configs
from training import data, demo, optim, startup, train
from training.config import Config, ConfigError
from training.files import replacing, write_text

CHECKOUT = Path(__file__).parent.parent

# One stage with two blocks: all kinds of weights, class token and drop path, and quick to trace.
TINY = [
    "image_size=16",
    "dims=16",
    "depths=2",
    "heads=2",
    "patch=4,4,0",
    "drop_path_rate=0.5",
    "label_smoothing=0.1",
    "batch_size=256",
    "epochs=3",
    "warmup_epochs=1",
]
TINY_CONFIG = configs.load("digits", TINY)
STEPS = 1437 // 256


def changed(**fields) -> Config:
    return dataclasses.replace(TINY_CONFIG, **fields)


@pytest.fixture(scope="module", autouse=True)
def deterministic():
    """As the program has it; other tests get TensorFlow back as it was."""
    from tensorflow.python.framework.config import disable_op_determinism

    startup.make_deterministic()
    yield
    disable_op_determinism()


@pytest.fixture(scope="module")
def images() -> data.Data:
    return data.load(TINY_CONFIG)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    assert train.train(TINY_CONFIG, run_dir) is not None
    return run_dir


def command(*arguments: str, **options) -> subprocess.Popen:
    path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def weights_of(run_dir: Path) -> dict[str, np.ndarray]:
    model = keras.models.load_model(run_dir / "model.keras")
    return {weight.path: weight.numpy() for weight in model.weights}


# ---- config


def test_overrides_are_read_by_the_type_of_their_field():
    config = configs.load(
        "digits",
        [
            "epochs=7",
            "learning_rate=1e-4",
            "dims=8, 16,32",
            "depths=(1,1,1)",
            "strategy=mirrored",
            "stop_after_epochs=4",
        ],
    )
    assert config.epochs == 7 and isinstance(config.epochs, int)
    assert config.learning_rate == 1e-4
    assert config.dims == (8, 16, 32)
    assert config.depths == (1, 1, 1)
    assert config.strategy == "mirrored"
    assert config.stop_after_epochs == 4
    assert configs.override(config, ["stop_after_epochs=none"]).stop_after_epochs is None
    assert configs._parse("True", bool) is True and configs._parse("false", bool) is False
    with pytest.raises(ValueError):
        configs._parse("yes", bool)


def test_later_overrides_win_and_the_original_stays():
    original = configs.load("digits")
    assert configs.override(original, ["epochs=7", "epochs=8"]).epochs == 8
    assert original == configs.load("digits")


def test_config_goes_through_json_unchanged():
    fields = json.loads(json.dumps(TINY_CONFIG.to_dict()))
    assert Config.from_dict(fields) == TINY_CONFIG
    assert TINY_CONFIG.differences(fields) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "digit"], ["digits", "Did you mean 'digits'?"]),
        (["--set", "epoch=3"], ["Did you mean 'epochs'?", "batch_size", "'epoch'"]),
        (["--set", "epochs"], ["key=value", "'epochs'"]),
        (["--set", "epochs=many"], ["`epochs`", "an integer", "'many'"]),
        (["--set", "epochs=2.5"], ["`epochs`", "an integer"]),
        (["--set", "epochs=none"], ["`epochs`", "an integer"]),
        (["--set", "learning_rate=fast"], ["`learning_rate`", "a number"]),
        (["--set", "learning_rate=nan"], ["`learning_rate`", "a number"]),
        (["--set", "dims=8,x,16"], ["`dims`", "commas", "an integer"]),
        (["--set", "dims="], ["`dims`", "commas"]),
        (["--set", "stop_after_epochs=x"], ["`stop_after_epochs`", "an integer or none"]),
        (["--set", "stop_after_epochs=0"], ["`stop_after_epochs`", "at least 1"]),
        (["--set", "strategy=miror"], ["`strategy`", "'mirrored'"]),
        (["--set", "source=digit"], ["`source`", "'digits'"]),
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
    try:
        status = train.main([*arguments, "--run-dir", str(run_dir)])
    except SystemExit as stop:
        status = stop.code
    output = capsys.readouterr()
    assert status == 2
    assert output.out == ""
    assert output.err.count("\n") == 1 and output.err.startswith("training.train: error: ")
    for part in said:
        assert part in output.err
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_size": 2000}, "1437"),
        ({"heads": (3,)}, "does not divide"),
        ({"logical_cpus": 64, "strategy": "mirrored"}, "can't be split"),
    ],
)
def test_what_shows_only_later_is_still_said_before_anything_is_written(fields, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        train.train(changed(**fields), tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- data


def test_the_split_is_fixed_and_stratified(images):
    from sklearn.datasets import load_digits

    assert len(images.train.labels) == 1437 and len(images.held_out.labels) == 360
    both = np.bincount(images.train.labels) + np.bincount(images.held_out.labels)
    assert both.tolist() == np.bincount(load_digits().target).tolist()
    assert np.all(np.abs(np.bincount(images.held_out.labels) - 0.2 * both) < 1)
    # The very images, on any machine and with any seed of the run.
    assert images.held_out.labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]
    again = data.load(changed(seed=5))
    np.testing.assert_array_equal(again.held_out.images, images.held_out.images)


def test_images_are_the_real_digits_normalized(images):
    from sklearn.datasets import load_digits

    assert images.train.images.dtype == np.float32
    assert images.train.images.shape == (1437, 16, 16, 1)
    # Twice the size, with bilinear weights: the mean of the middle pixels is the original's.
    assert images.train.images.min() == -1 and images.train.images.max() == 1
    small = load_digits().images / 8 - 1
    means = np.sort(np.concatenate([images.train.images, images.held_out.images]).mean((1, 2, 3)))
    np.testing.assert_allclose(means, np.sort(small.mean((1, 2))), atol=0.05)


def epochs_of(config, images, first_epoch=0):
    batches = list(data.training_batches(config, images, first_epoch).as_numpy_iterator())
    assert len(batches) == STEPS * (config.epochs - first_epoch)
    return [batches[i : i + STEPS] for i in range(0, len(batches), STEPS)]


def test_an_epoch_is_the_same_whether_or_not_others_came_before(images):
    undisturbed = epochs_of(TINY_CONFIG, images)
    resumed = epochs_of(TINY_CONFIG, images, first_epoch=1)
    for one, other in zip(undisturbed[1:], resumed, strict=True):
        for (x, y), (x2, y2) in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, x2)
            np.testing.assert_array_equal(y, y2)
    assert not np.array_equal(undisturbed[0][0][0], undisturbed[1][0][0])
    other_seed = epochs_of(changed(seed=1), images)
    assert not np.array_equal(undisturbed[0][0][0], other_seed[0][0][0])


def test_an_epoch_has_each_image_at_most_once_and_full_batches(images):
    known = {image.tobytes(): i for i, image in enumerate(images.train.images)}
    for epoch in epochs_of(changed(max_shift=0), images):
        assert {len(x) for x, _ in epoch} == {256}
        places = [known[image.tobytes()] for x, _ in epoch for image in x]
        assert len(set(places)) == len(places)
        labels = np.concatenate([y for _, y in epoch])
        np.testing.assert_array_equal(labels.argmax(-1), images.train.labels[places])
        np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-6)
        np.testing.assert_allclose(labels.max(-1), 0.9 + 0.1 / 10, rtol=1e-6)


def test_shifts_move_images_within_the_limit_and_differ():
    image = np.full((9, 9, 1), 1.0, np.float32)
    image[4, 4] = 7.0
    places = set()
    for i in range(200):
        moved = data._shift(tf.constant(image), 2, -1.0, tf.constant([0, i])).numpy()
        assert moved.shape == (9, 9, 1)
        assert set(np.unique(moved)) <= {-1.0, 1.0, 7.0}
        places.add(tuple(int(i) for i in np.argwhere(moved[..., 0] == 7)[0]))
    assert places == {(y, x) for y in range(2, 7) for x in range(2, 7)}


@pytest.mark.parametrize("batch_size", [256, 180, 7, 512])
def test_evaluation_counts_each_image_once_in_full_batches(images, batch_size):
    batches = list(
        data.evaluation_batches(changed(batch_size=batch_size), images).as_numpy_iterator()
    )
    assert {len(x) for x, _, _ in batches} == {batch_size}
    x, y, weights = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_array_equal(x[weights > 0], images.held_out.images)
    np.testing.assert_array_equal(y[weights > 0].argmax(-1), images.held_out.labels)
    assert len(set(weights[weights > 0])) == 1  # each counts the same
    assert len(weights) - 360 == np.sum(weights == 0) < batch_size
    np.testing.assert_allclose(weights.mean(dtype=np.float64), 1, rtol=1e-6)


# ---- optimizer


def test_schedule_grows_linearly_and_falls_along_a_cosine():
    rate = optim.schedule(changed(epochs=10, warmup_epochs=2.0, learning_rate=0.01), 5)
    for step in range(60):
        if step < 10:
            expected = 1e-6 + (0.01 - 1e-6) * step / 10
        else:
            share = min((step - 10) / 40, 1)
            expected = 1e-5 + (0.01 - 1e-5) * (1 + math.cos(math.pi * share)) / 2
        assert float(rate(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_schedule_without_warmup_begins_at_its_peak_and_serializes():
    rate = optim.WarmupCosine(0.1, total_steps=8)
    assert float(rate(0)) == pytest.approx(0.1)
    assert float(rate(4)) == pytest.approx(0.05)
    assert float(rate(8)) == pytest.approx(0, abs=1e-8)
    schedules = keras.optimizers.schedules
    again = schedules.deserialize(schedules.serialize(rate))
    assert again.get_config() == rate.get_config()
    with pytest.raises(ValueError, match="total_steps"):
        optim.WarmupCosine(0.1, total_steps=8, warmup_steps=8)


def test_norms_biases_and_class_token_do_not_decay_and_all_else_does(images):
    model = train.build_model(TINY_CONFIG, images, classifier_activation=None)
    for weight in model.trainable_weights:  # biases and tokens start where decay would not show
        weight.assign(np.ones(weight.shape))
    config = changed(weight_decay=0.5, learning_rate=0.1, warmup_epochs=0)
    adamw = optim.optimizer(config, model, STEPS)
    adamw.apply([np.zeros(w.shape, np.float32) for w in model.trainable_weights])
    decayed = set()
    for weight in model.trainable_weights:
        values = weight.numpy()
        if values.min() < 1:
            np.testing.assert_allclose(values, 1 - 0.5 * 0.1, rtol=1e-6)
            decayed.add(weight.path)
        else:
            np.testing.assert_array_equal(values, 1)
    kernels = {"stage0_patch_embed/proj/kernel", "head/kernel"}
    for block in ("stage0_blocks_0", "stage0_blocks_1"):
        kernels |= {f"{block}/attn/conv_proj_{x}/conv/kernel" for x in "qkv"}
        kernels |= {f"{block}/attn/{x}/kernel" for x in ("proj_q", "proj_k", "proj_v", "proj")}
        kernels |= {f"{block}/mlp/{x}/kernel" for x in ("fc1", "fc2")}
    assert decayed == kernels


# ---- a run


def test_a_run_leaves_all_its_files_and_none_besides(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {
        "config.json",
        "checkpoints",
        "model.keras",
        "curves.png",
        "report.json",
    }
    assert Config.from_dict(json.loads((finished_run / "config.json").read_text())) == TINY_CONFIG
    assert (finished_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    indices = {path.name for path in (finished_run / "checkpoints").glob("*.index")}
    assert indices == {"ckpt-2.index", "ckpt-3.index"}


def test_the_report_is_what_the_saved_model_does(finished_run, images):
    report = json.loads((finished_run / "report.json").read_text())
    model = keras.models.load_model(finished_run / "model.keras")
    probabilities = model.predict(images.held_out.images, verbose=0)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    correct = np.sum(probabilities.argmax(-1) == images.held_out.labels)
    assert report["correct"] == correct and report["images"] == 360
    assert report["top1"] == correct / 360
    of_label = np.take_along_axis(probabilities, images.held_out.labels[:, None], axis=1)
    assert report["loss"] == pytest.approx(-np.log(of_label).mean(), rel=1e-4)
    assert report["epochs"] == 3 and report["steps"] == 3 * STEPS
    assert report["parameters"] == sum(math.prod(w.shape) for w in model.trainable_weights)
    assert report["images_per_second"] > 0 and report["seconds"] > 0
    assert report["seed"] == 0 and report["strategy"].startswith("OneDeviceStrategy on 1 device")
    assert report["keras"] == keras.__version__ and report["tensorflow"] == tf.__version__


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(finished_run, tmp_path, capsys):
    sets = [part for text in TINY for part in ("--set", text)]
    killed = command(
        "-m", "training.train", "--config", "digits", *sets, "--run-dir", str(tmp_path)
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoints" / "checkpoint").exists():
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "report.json").exists()
    (tmp_path / ".partial-report.json").write_text("of the killed process")

    report = train.train(TINY_CONFIG, tmp_path)
    assert "Going on after epoch" in capsys.readouterr().out
    expected, found = weights_of(finished_run), weights_of(tmp_path)
    assert expected.keys() == found.keys()
    for path, values in expected.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)
    undisturbed = json.loads((finished_run / "report.json").read_text())
    for key in ("top1", "loss", "epochs", "steps"):
        assert report[key] == undisturbed[key]
    files = [{p.relative_to(d) for p in d.rglob("*")} for d in (finished_run, tmp_path)]
    assert files[0] == files[1]


def test_a_checkpoint_has_everything(finished_run, images):
    latest = tf.train.latest_checkpoint(finished_run / "checkpoints")
    names = {name for name, _ in tf.train.list_variables(latest)}
    model = train.build_model(TINY_CONFIG, images, classifier_activation=None)
    assert sum(name.startswith("weights/") for name in names) == len(model.weights)
    # the number of steps, and two moments for each weight
    states = 1 + 2 * len(model.trainable_weights)
    assert sum(name.startswith("optimizer/") for name in names) == states
    assert sum(name.startswith("seeds/") for name in names) == 1
    assert sum(name.startswith("history/") for name in names) == 1


def test_a_run_stops_on_request(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(keras.Model, "fit", lambda self, *_, **options: asked.append(options))
    sets = [part for text in [*TINY, "stop_after_epochs=2"] for part in ("--set", text)]
    assert train.main(["--config", "digits", *sets, "--run-dir", str(tmp_path)]) == 0
    assert "Stopped after epoch 2 of 3" in capsys.readouterr().out
    assert (asked[0]["initial_epoch"], asked[0]["epochs"]) == (0, 2)
    assert not (tmp_path / "report.json").exists()
    # Asked to go on to the end, it is the same run.
    assert train.open_run(TINY_CONFIG, tmp_path) is None


def test_a_finished_run_is_not_trained_again(finished_run, capsys, monkeypatch):
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    sets = [part for text in TINY for part in ("--set", text)]
    assert train.main(["--config", "digits", *sets, "--run-dir", str(finished_run)]) == 0
    said = capsys.readouterr().out
    assert "finished already" in said and "Held-out accuracy" in said
    assert before == {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}


def test_a_run_with_another_config_is_left_alone(finished_run, capsys, monkeypatch):
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained"))
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*")}
    sets = [part for text in [*TINY, "seed=4", "dims=32"] for part in ("--set", text)]
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
    assert "goes on" in capsys.readouterr().out


# ---- several devices

TWO_DEVICES = """
import json, sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from training import config as configs
from training import distribute, train

folder, overrides = Path(sys.argv[1]), sys.argv[2:]
result = {}
for strategy in ("one_device", "mirrored"):
    config = configs.load("digits", [*overrides, "strategy=" + strategy, "logical_cpus=2"])
    (folder / strategy).mkdir()
    result[strategy] = train.train(config, folder / strategy)

# Dropout, by itself.
strategy = distribute.choose(config)
with strategy.scope():
    layer = keras.layers.Dropout(0.5, seed=3)
    model = keras.Sequential([keras.Input((64,)), layer])
    distribute.prepare(model, strategy)
ones = np.ones((1, 64), np.float32)
masks = [
    strategy.experimental_local_results(
        strategy.run(tf.function(lambda: model(ones, training=True)))
    )
    for _ in range(2)
]
result["masks"] = [[mask.numpy().tolist() for mask in pair] for pair in masks]
result["alone"] = keras.layers.Dropout(0.5, seed=3)(ones, training=True).numpy().tolist()
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    """One epoch on one device and on two, with drop path, in a process that has two."""
    folder = tmp_path_factory.mktemp("two_devices")
    overrides = [*TINY, "epochs=1", "warmup_epochs=0.9"]
    process = command("-c", TWO_DEVICES, str(folder), *overrides)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return folder, json.loads(out.splitlines()[-1])


def test_two_devices_learn_what_one_does(two_devices):
    folder, result = two_devices
    assert result["mirrored"]["strategy"] == "MirroredStrategy on 2 devices: CPU:0, CPU:1"
    assert result["mirrored"]["loss"] == pytest.approx(result["one_device"]["loss"], abs=1e-5)
    assert result["mirrored"]["correct"] == result["one_device"]["correct"]
    one, two = weights_of(folder / "one_device"), weights_of(folder / "mirrored")
    assert any("moving_variance" in path for path in one)
    for path, values in one.items():
        np.testing.assert_allclose(two[path], values, atol=1e-5, err_msg=path)


def test_dropout_masks_differ_between_replicas_and_steps(two_devices):
    (first, second), (third, fourth) = two_devices[1]["masks"]
    assert first != second and third != fourth and first != third and second != fourth
    assert first == two_devices[1]["alone"]


# ---- files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as beside:
        beside.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "saved_model") as beside:
            beside.mkdir()
            (beside / content).write_text(content)
    assert [p.name for p in (tmp_path / "saved_model").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["saved_model"]


# ---- demo


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
    assert (run_dir / "saved_model" / "saved_model.pb").exists()


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
    out, err = command("-c", code).communicate()
    assert out.strip() == "['json']", err
