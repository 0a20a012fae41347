"""What may happen to a run on its way, and what it then says (training/engine/loop.py)."""

from __future__ import annotations

import itertools
import math
import shutil
import threading

import keras
import programs
import pytest
import tensorflow as tf
from tensorflow.python.framework import config as tf_config
from tiny_runs import TINY, TINY_CONFIG, changed

from training import augment, data, distribute, train
from training.engine import loop
from training.engine.errors import RunError
from training.engine.step import Trainer
from training.runs.run_checkpoints import RunCheckpoints

pytestmark = pytest.mark.usefixtures("deterministic", "eager")


def test_images_are_prepared_in_parallel_though_operations_are_deterministic(images, monkeypatch):
    started, together, met = itertools.count(1), threading.Event(), []
    real = augment.train_transform

    def slow(pixels):
        if next(started) > 1:
            together.set()
        # The first one for the second, if they run in parallel.
        met.append(together.wait(programs.PATIENCE))
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


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (data.DamagedError("2 images can't be read; `max_damaged` is 1: a, b"), 3),
        (data.StorageError("/data/a.jpg can't be read: Input/output error."), 1),
    ],
    ids=["damaged", "storage"],
)
def test_images_that_can_not_be_read_stop_the_run(tmp_path, capsys, monkeypatch, error, status):
    real = data.Damaged

    class Spoiled(real):
        def __init__(self, limit, names):
            super().__init__(limit, names)
            self.error = error

    monkeypatch.setattr(data, "Damaged", Spoiled)

    def fail(*_, **__):
        raise tf.errors.InvalidArgumentError(None, None, "in a graph, at some node")

    monkeypatch.setattr(keras.Model, "fit", fail)
    sets = programs.settings(*TINY)
    assert train.main(["--config", "digits", *sets, "--run-dir", str(tmp_path)]) == status
    assert capsys.readouterr().err == f"training.train: error: {error}\n"
