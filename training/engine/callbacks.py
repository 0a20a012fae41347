"""What is kept and shown of a run while it goes on: checkpoints, curves as numbers, the speed."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_cvt._messages import one_line
from training.config import Config
from training.engine.errors import DataLost, RunError
from training.engine.state import Progress, State
from training.engine.step import Trainer
from training.runs.folder import RunFolder
from training.runs.run_checkpoints import DiskError, RunCheckpoints


class Stopped(Exception):
    """The run has done the steps that it was asked for, but is not finished."""


class Diverged(Exception):
    """The loss or the gradient is NaN or infinite, or the loss too large. The message says where."""


def check_counted(trainer: Trainer) -> None:
    """Checks that an evaluation had images. With several machines, all must call it.

    Raises:
        RunError: If none counts.
    """
    if not trainer.counted("top1").images:
        raise RunError(
            "None of the validation images can be read, or has a class: nothing is known."
        )


class Recorder(keras.callbacks.Callback):
    """Counts the steps, and after each does what is due.

    Args:
        config: The run's settings.
        progress, state: How far the run is, and all that the rest of it depends on.
        checkpoints: Where to write them; None for a worker that is not the chief.
        folder: The run's, for the history and the curves; None likewise.
        steps_per_epoch, total_steps: Of the run.
        means: The means so far of an epoch that was begun in an earlier session.
    """

    def __init__(
        self,
        config: Config,
        progress: Progress,
        state: State,
        checkpoints: RunCheckpoints | None,
        folder: RunFolder | None,
        steps_per_epoch: int,
        total_steps: int,
        means: dict[str, np.ndarray],
    ):
        super().__init__()
        self._config = config
        self._progress = progress
        self._state = state
        self._checkpoints = checkpoints
        self._folder = folder
        self._steps_per_epoch = steps_per_epoch
        self._total_steps = total_steps
        self._means = means
        self._writer = None
        if folder is not None:
            with self._curves():
                self._writer = tf.summary.create_file_writer(str(folder.tensorboard))
        self._stop_at = min(total_steps, config.run.max_steps or total_steps)

    def close(self) -> None:
        """Ends the file of the curves."""
        if self._writer is not None:
            with self._curves():
                self._writer.close()

    def on_epoch_begin(self, epoch, logs=None):
        self._state.restore_means(self._means)
        self._means = {}
        self._begun_at = self._progress.step
        self._begin = time.perf_counter() - self._progress.seconds
        self._speed = _Speed(self._config.optimization.batch_size)

    def on_test_begin(self, logs=None):
        step = self._progress.step
        if (step % self._steps_per_epoch and step != self._total_steps) or step == self._begun_at:
            raise DataLost(f"The training images ended early, after step {step}.")
        self._averaged = self.model.averaged()
        self._averaged.__enter__()

    def on_test_end(self, logs=None):
        self._averaged.__exit__(None, None, None)
        check_counted(self.model)

    def on_train_batch_end(self, batch, logs=None):
        step = self._progress.step = self._progress.step + 1
        loss, norm = logs.pop("step_loss"), logs["gradient_norm"]
        # A step whose scaled gradient overflows is left out. Any other has made such weights.
        scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        # "Not at most": nor if it is no number.
        if not loss <= self._config.run.max_loss or not (scaled or norm < math.inf):
            raise Diverged(
                f"The loss of step {step} is {loss:.4g}, at learning rate {logs['learning_rate']:.3g} "
                f"and gradient norm {norm:.3g}."
            )
        logs["images_per_second"] = self._speed.after(step)
        if step % self._config.run.log_steps == 0:
            self._write_points("train", {**logs, "step_loss": loss})
        if step % self._steps_per_epoch == 0 or step == self._total_steps:
            self._progress.seconds = time.perf_counter() - self._begin
        else:  # at the end of an epoch only after its evaluation, in on_epoch_end
            due = self._config.run.checkpoint_steps
            self._save_if((due is not None and step % due == 0) or step == self._stop_at)

    def on_epoch_end(self, epoch, logs=None):
        progress, step = self._progress, self._progress.step
        logs["learning_rate"] = float(self.model.optimizer.learning_rate)
        logs.pop("step_loss", None)
        # No step follows the last one to show what it has made of the weights: this does.
        largest = self._config.run.max_loss if step == self._total_steps else sys.float_info.max
        if not logs["val_loss"] <= largest:
            raise Diverged(f"The validation loss after step {step} is {logs['val_loss']:.4g}.")
        seconds, progress.seconds = progress.seconds, 0.0
        done = step - (step - 1) // self._steps_per_epoch * self._steps_per_epoch
        logs["images_per_second"] = done * self._config.optimization.batch_size / seconds
        progress.epochs.append(
            {
                "epoch": epoch + 1,
                "step": step,
                **{name: float(value) for name, value in logs.items()},
                "training_seconds": seconds,
                "seconds": time.perf_counter() - self._begin,
            }
        )
        if self._folder is not None:
            self._folder.write_history(progress.epochs)
            scores = {k.removeprefix("val_"): v for k, v in logs.items() if k.startswith("val_")}
            self._write_points("validation", scores)
            with self._curves():
                self._writer.flush()
        left = (self._total_steps - step) / self._steps_per_epoch * progress.epochs[-1]["seconds"]
        if self._folder is not None and left:
            print(f"{step} of {self._total_steps} steps; about {duration(left)} to go.", flush=True)
        self._save_if(True)

    def _save_if(self, due: bool) -> None:
        """Writes a checkpoint if one is due, and stops if the run was asked to stop here."""
        step = self._progress.step
        if due:
            if step % self._steps_per_epoch and step != self._total_steps:
                self._progress.seconds = time.perf_counter() - self._begin
            checkpoint = self._state.checkpoint()
            if self._checkpoints is not None:
                self._checkpoints.save(checkpoint)
        if step == self._stop_at and step < self._total_steps:
            raise Stopped

    def _write_points(self, folder: str, numbers: dict[str, Any]) -> None:
        """For TensorBoard."""
        if self._writer is None:
            return
        # As tf.summary.scalar, which needs the tensorboard package; that is for looking only.
        metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": "scalars"})
        with self._curves(), self._writer.as_default(step=self._progress.step):
            for name, value in numbers.items():
                tf.summary.write(
                    f"{folder}/{name}", tf.constant(value, tf.float32), metadata=metadata
                )

    @contextlib.contextmanager
    def _curves(self) -> Iterator[None]:
        """Tells what TensorFlow says of the file of the curves as of any other file of the run."""
        try:
            yield
        except tf.errors.OpError as error:
            raise DiskError(
                None, f"{self._folder.tensorboard} can't be written: {one_line(error)}"
            ) from None


class _Speed:
    """Images per second, without the first step, which prepares."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._first = None

    def after(self, step: int) -> float:
        now = time.perf_counter()
        if self._first is None:
            self._first = (step, now)
            return math.nan
        return self._batch_size * (step - self._first[0]) / (now - self._first[1])


def duration(seconds: float) -> str:
    """Such as "3 h 20 min" or "40 s"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
