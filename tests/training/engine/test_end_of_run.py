"""What is said of a run in its end: what is saved is evaluated, and nothing that did not happen."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import keras
import numpy as np
import programs
import pytest
import tensorflow as tf
from tiny_runs import TINY, TINY_CONFIG

from training import data, optim, train
from training.engine import loop
from training.engine.callbacks import Recorder
from training.engine.step import Trainer

pytestmark = pytest.mark.usefixtures("deterministic", "linear")

ENDS = [*TINY, "ema=none", "warmup_epochs=0", "checkpoint_steps=1", "epochs=none", "steps=2"]


@pytest.fixture
def linear(monkeypatch) -> None:
    """In place of a CvT a model that is traced at once."""

    def build(config, images, activation=None, dtype="float32"):
        size = config.data.image_size
        layers = [
            keras.Input((size, size, 1)),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(10, name="head", dtype=dtype),
            keras.layers.Activation(activation or "linear", dtype="float32"),
        ]
        model = keras.Sequential(layers)
        model.dtype_policy = dtype
        return model

    def counts(model):
        class Counts:
            parameters = model.count_params()
            multiply_adds = 0

        return Counts

    monkeypatch.setattr(loop, "build_model", build)
    monkeypatch.setattr(optim, "freeze_without_effect", lambda model: None)
    monkeypatch.setattr(optim.optimizers, "without_decay", lambda model: [])
    monkeypatch.setattr("keras_cvt.complexity", counts)


def run(folder: Path, *changes: str) -> int:
    sets = programs.settings(*ENDS, *changes)
    return train.main(["--config", "digits", *sets, "--run-dir", str(folder)])


def said_in_a_line(capsys) -> str:
    said = capsys.readouterr().err
    assert said.startswith("training.train: error: ") and said.count("\n") == 1
    return said


def test_what_is_saved_is_evaluated_whatever_the_run_computed_with(tmp_path):
    assert run(tmp_path, "precision=bfloat16", "steps=5") == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["precision"] == "mixed_bfloat16"
    assert report["evaluation_precision"] == "float32"
    model = keras.models.load_model(tmp_path / "model.keras")
    pixels, labels = data.evaluation_arrays(TINY_CONFIG, data.load(TINY_CONFIG))
    probabilities = model.predict(pixels, verbose=0)
    assert report["correct"] == np.sum(probabilities.argmax(-1) == labels)
    of_label = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)
    loss = -np.log(of_label).mean()
    assert report["loss"] == pytest.approx(loss, rel=1e-6)
    # And bfloat16 does not have that: so the test can tell.
    (last,) = (tmp_path / "history.csv").read_text().splitlines()[-1:]
    names = (tmp_path / "history.csv").read_text().splitlines()[0].split(",")
    assert float(last.split(",")[names.index("val_loss")]) != pytest.approx(loss, rel=1e-5)


def test_the_last_step_can_diverge_too(tmp_path, capsys):
    # The first step has the rate of the warm-up, 1e-6; what the second does is seen by no step.
    assert run(tmp_path, "optimizer=sgd", "learning_rate=1e20", "warmup_epochs=0.2") == 3
    said = said_in_a_line(capsys)
    assert "The validation loss after step 2 is" in said
    assert "The last checkpoint is of step 1." in said
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "model.keras").exists()


def test_validation_images_of_which_none_can_be_read_are_no_result(tmp_path, monkeypatch, capsys):
    real = data.evaluation_batches

    def damaged(*arguments, **options):
        return real(*arguments, **options).map(
            lambda images, right, weights: (images, right, 0 * weights)
        )

    monkeypatch.setattr(data, "evaluation_batches", damaged)
    assert run(tmp_path) == 3
    assert "None of the validation images can be read" in said_in_a_line(capsys)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("batches", [0, 1])
def test_images_that_end_early_are_no_end_of_the_run(tmp_path, monkeypatch, capsys, batches):
    real = data.training_batches
    monkeypatch.setattr(data, "training_batches", lambda *a, **o: real(*a, **o).take(batches))
    assert run(tmp_path) == 1
    assert f"The training images ended early, after step {batches}." in said_in_a_line(capsys)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("what", "status", "told"),
    [
        ("OOM when allocating tensor with shape[1]", 3, "`accumulation` takes a batch in smaller"),
        ("Node: 'x'\nf/1.jpg; Disk quota exceeded", 1, "error: f/1.jpg; Disk quota exceeded\n"),
    ],
)
def test_a_full_disk_is_not_too_little_memory(tmp_path, monkeypatch, capsys, what, status, told):
    """TensorFlow has one kind of error for both; of one, starting anew may help."""

    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, what)

    monkeypatch.setattr(Recorder, "_write_points", fail)
    assert run(tmp_path, "log_steps=1") == status
    assert told in said_in_a_line(capsys)


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch, capsys):
    name = "curves.png"
    real = os.replace

    def full(source, destination):
        if Path(destination) == tmp_path / name:
            raise OSError(28, os.strerror(28), str(destination))
        real(source, destination)

    monkeypatch.setattr(os, "replace", full)
    assert run(tmp_path) == 1
    said = said_in_a_line(capsys)
    assert "No space left on device" in said and name in said
    assert not [*tmp_path.glob(".partial*")]


def test_curves_that_cannot_be_written_are_told_as_any_file(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise tf.errors.PermissionDeniedError(None, None, "events.v2; Permission denied")

    monkeypatch.setattr(tf.summary, "create_file_writer", fail)
    assert run(tmp_path) == 1
    said = said_in_a_line(capsys)
    assert f"{tmp_path}/tensorboard can't be written: events.v2; Permission denied" in said


def test_parts_are_traced_once(monkeypatch):
    calls = []
    real = Trainer.call

    def counting(self, images, training=False):
        calls.append(images.shape)
        return real(self, images, training)

    monkeypatch.setattr(Trainer, "call", counting)
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    trainer = Trainer(model, accumulation=64)
    trainer.compile(optim.SGD(0.1), jit_compile=False)
    images, labels = tf.ones((128, 4, 4, 1)), tf.one_hot(tf.range(128) % 3, 3)
    logs = tf.function(trainer.train_step)((images, labels))
    assert calls == [(2, 4, 4, 1)]
    assert float(trainer.means["top1"].count) == 128 and math.isfinite(logs["gradient_norm"])
