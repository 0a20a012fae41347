"""What a run keeps of itself, so that it can be stopped at any time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import keras
import tensorflow as tf

from training import distribute


class History(tf.train.experimental.PythonState):
    """What each finished epoch was like; how many there are says where the run is.

    Attributes:
        epochs: for each finished epoch, numbers by name: Keras' `loss`, `accuracy`, `val_loss`,
            `val_accuracy` and `learning_rate` (that of the step after the epoch), `training_seconds`,
            and `seconds` with evaluation.
    """

    def __init__(self):
        self.epochs: list[dict[str, float]] = []

    def serialize(self) -> str:
        return json.dumps(self.epochs)

    def deserialize(self, value: str) -> None:
        self.epochs = json.loads(value)


class Checkpoints:
    """The checkpoints of a run, in a folder: all that its rest depends on.

    These are the model's weights and statistics, the optimizer's state, the states of the seed
    generators, and the history. A checkpoint counts only once it is complete: TensorFlow writes its
    files first, and then renames the file `checkpoint`, which says which is the latest.

    Args:
        model: compiled, its optimizer built.
        history: of the run.
        folder: made when the first checkpoint is.
        keep: how many of the latest are kept.
    """

    def __init__(self, model: keras.Model, history: History, folder: Path, keep: int):
        # Under their own names and one by one. Handing over the model would leave out its seed
        # generators, and number the layers.
        self._checkpoint = tf.train.Checkpoint(
            weights={weight.path: weight.value for weight in model.weights},
            optimizer={state.path: state.value for state in model.optimizer.variables},
            seeds=[seeds.state.value for seeds in distribute.seed_generators(model)],
            history=history,
        )
        self._history = history
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=keep)

    def restore(self) -> bool:
        """Goes back to the latest complete checkpoint; whether there was one."""
        latest = self._manager.latest_checkpoint
        if latest is None:
            return False
        self._checkpoint.restore(latest).assert_consumed()
        return True

    def save(self) -> None:
        """Writes a checkpoint, numbered after the epochs that are done."""
        self._manager.save(checkpoint_number=len(self._history.epochs))


class Recorder(keras.callbacks.Callback):
    """After each epoch, adds it to the history and writes a checkpoint.

    Also shows the learning rate in the progress bar.
    """

    def __init__(self, history: History, checkpoints: Checkpoints):
        super().__init__()
        self._history = history
        self._checkpoints = checkpoints

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter()

    def on_test_begin(self, logs=None):
        self._trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        # Keras shows what is in `logs`, and so the rate of the step that comes next.
        logs["learning_rate"] = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )
        self._history.epochs.append(
            {
                **{name: float(value) for name, value in logs.items()},
                "training_seconds": self._trained - self._begin,
                "seconds": time.perf_counter() - self._begin,
            }
        )
        self._checkpoints.save()
