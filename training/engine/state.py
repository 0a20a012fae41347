"""How far a run is, and everything that the rest of it depends on."""

from __future__ import annotations

import copy
from typing import Any

import keras
import numpy as np

from training import distribute
from training.engine.step import Trainer
from training.runs.run_checkpoints import RunCheckpoint


class Progress:
    """How far a run is.

    Attributes:
        step: Steps done.
        attempt: How often the run went back to a checkpoint to make other random draws.
        epochs: For each finished epoch, numbers by name: `epoch`, from 1, `step`, `loss`, `top1`,
            `top5`, `gradient_norm` (of its last step), `val_loss`, `val_top1`, `val_top5`,
            `learning_rate` (of the step after the epoch), `images_per_second`, `training_seconds`,
            and `seconds` with evaluation.
        seconds: Spent on training in the epoch that is not finished.
        damaged: The images that the chief could not read, by name; the values mean nothing.
        contents: The run's classes and images, as `training.engine.contents.describe` tells them.
    """

    def __init__(self):
        self.step = 0
        self.attempt = 0
        self.epochs: list[dict[str, float]] = []
        self.seconds = 0.0
        self.damaged: dict[str, None] = {}
        self.contents: dict[str, Any] = {}


class State:
    """Everything that the rest of a run depends on, in a trainer and in a checkpoint.

    These are the model's weights and statistics, their averages, the optimizer's state, the states of
    the seed generators, and, for a checkpoint within an epoch, the means over the epoch until then.
    """

    def __init__(self, trainer: Trainer, progress: Progress):
        self._progress = progress
        self._variables = {
            **{weight.path: weight for weight in trainer.cvt.weights},
            **{average.path: average for average in trainer.averages},
            **{f"optimizer/{state.path}": state for state in trainer.optimizer.variables},
            **{
                f"seeds/{number}": seeds.state
                for number, seeds in enumerate(distribute.seed_generators(trainer.cvt))
            },
        }
        self._means = {
            f"means/{name}/{variable.name}": variable
            for name, mean in trainer.means.items()
            for variable in mean.variables
        }

    def checkpoint(self) -> RunCheckpoint:
        """The state now. With several machines, all must call it: they add up what they have."""
        arrays = {
            name: keras.ops.convert_to_numpy(variable)
            for name, variable in {**self._variables, **self._means}.items()
        }
        # A copy: validation and training go on finding damaged images while this is written.
        progress = {key: copy.copy(value) for key, value in vars(self._progress).items()}
        return RunCheckpoint(self._progress.step, arrays, progress)

    def restore(self, checkpoint: RunCheckpoint) -> dict[str, np.ndarray]:
        """Goes back to a checkpoint.

        Returns:
            The means, for `restore_means`: `fit` sets them to zero when it starts an epoch.

        Raises:
            ValueError: For a checkpoint of another model or optimizer.
        """
        arrays = dict(checkpoint.arrays)
        means = {name: arrays.pop(name) for name in self._means if name in arrays}
        if arrays.keys() != self._variables.keys():
            odd = sorted(arrays.keys() ^ self._variables.keys())
            raise ValueError(f"it has other states than this run, such as {odd[0]!r}")
        for name, variable in self._variables.items():
            if arrays[name].shape != tuple(variable.shape):
                raise ValueError(
                    f"it has {name!r} in the shape {arrays[name].shape}, and this run in "
                    f"{tuple(variable.shape)}"
                )
        for name, variable in self._variables.items():
            variable.assign(arrays[name])
        progress = dict(checkpoint.state)
        self._progress.damaged.update(progress.pop("damaged", {}))
        vars(self._progress).update(progress)
        return means

    def restore_means(self, means: dict[str, np.ndarray]) -> None:
        """Sets the means over the epoch so far, as `restore` returned them."""
        for name, value in means.items():
            self._means[name].assign(value)
