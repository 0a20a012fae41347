"""A run, from its beginning or its last checkpoint to its end."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_cvt
from keras_cvt._files import replacing, write_json, write_text
from keras_cvt._messages import one_line
from training import data, distribute, optim
from training.config import Config, ConfigError
from training.data.classes import sorted_as_text_only
from training.engine import contents
from training.engine.callbacks import Diverged, Recorder, Stopped, check_counted
from training.engine.devices import policy_for
from training.engine.errors import DataLost, RunError, WorkerLost
from training.engine.failures import as_disk_error, is_unanswered, lost_worker
from training.engine.model import build_model
from training.engine.report import make_report
from training.engine.service import ServiceWatch
from training.engine.state import Progress, State
from training.engine.step import Trainer
from training.runs import curves
from training.runs.folder import RunFolder
from training.runs.run_checkpoints import RunCheckpoint, RunCheckpointError, RunCheckpoints

_MOST_ATTEMPTS = 3  # at getting past a divergence


def train_run(
    config: Config,
    run_dir: Path,
    resume: Sequence[RunCheckpoints],
    strategy: tf.distribute.Strategy,
    trainer: Callable[..., Trainer] = Trainer,
) -> dict[str, Any] | None:
    """Trains until the run is finished, or until `max_steps`.

    Args:
        config: The run's settings.
        run_dir: Its folder, which exists.
        resume: Checkpoints of other runs, to continue from if this one has none.
        strategy: The run's devices.
        trainer: Makes the model with its step, of the arguments of `Trainer`.

    Returns:
        The report, or None if the run stopped before its end.

    Raises:
        ConfigError, RunError, WorkerLost, DataLost, DiskError: As `training.train.train`.
    """
    run = TrainingRun(config, RunFolder(run_dir), strategy, trainer)
    run.begin(resume)
    run.train()
    return run.finish() if run.progress.step == run.total_steps else run.stop()


class TrainingRun:
    """A run on its way: `begin`, `train`, and then either `finish` or `stop`.

    Each worker has one; the first of them, the chief, writes the files and speaks.

    Args:
        config: The run's settings.
        folder: Its folder.
        strategy: Its devices.
        trainer: Makes the model with its step.

    Attributes:
        progress: How far it is.
        total_steps: At which it is finished.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        strategy: tf.distribute.Strategy,
        trainer: Callable[..., Trainer] = Trainer,
    ):
        self._config = config
        self._folder = folder
        self._strategy = strategy
        self._trainer_of = trainer
        self._chief = distribute.is_chief(strategy)
        self._policy = policy_for(config)
        self._checkpoints = folder.read_checkpoints(config.run.keep_checkpoints)
        self._watch: ServiceWatch | None = None
        self.progress = Progress()
        self._damaged = data.Damaged(config.data.max_damaged, self.progress.damaged)
        self._images = data.load(config)
        self.progress.contents = contents.describe(self._images)
        self._steps_per_epoch = data.steps_per_epoch(config, self._images)
        self.total_steps = data.total_steps(config, self._images)

    def begin(self, resume: Sequence[RunCheckpoints]) -> None:
        """Makes the model and its state: those of the last checkpoint, if there is one."""
        self._check_workers()
        places = [self._checkpoints, *resume]
        last = find_checkpoint(self._strategy, places)
        if last is not None:
            self._check_contents(last, places)
        with self._errors_in_one_line():
            # The weights that a run begins with are needed at its beginning only, and may be gone now.
            self._trainer = self._make_trainer(with_weights=last is None)
        self._say(self._config.table())
        self._say(
            f"CvT with {keras_cvt.complexity(self._trainer.cvt).parameters:,} parameters in "
            f"{self._policy}, {self._images.train.count:,} training images, "
            f"{self._steps_per_epoch:,} steps each epoch, {distribute.describe(self._strategy)}."
        )
        for line in self._images.left_out:
            self._say(line)
        self._state = State(self._trainer, self.progress)
        self._means = {} if last is None else self._go_back(last)
        with self._errors_in_one_line():
            self._validation = self._validation_batches()

    def _check_workers(self) -> None:
        """Refuses workers that see different images.

        Raises:
            ConfigError: On all workers.
        """
        # As many bits as a number has that can be added up.
        digest = contents.digest(self.progress.contents)[:15]
        if not distribute.all_have(self._strategy, int(digest, 16)):
            counts = f"{self._images.train.count:,} and {self._images.validation.count:,}"
            raise ConfigError(
                "All workers must see the same classes and images, in the same order, and some see "
                f"others. Received on this worker: {counts} training and validation images, digest "
                f"{digest}."
            )

    def _check_contents(self, last: RunCheckpoint, places: Sequence[RunCheckpoints]) -> None:
        """Refuses a checkpoint of a run with other classes or images.

        Raises:
            ConfigError: Naming the difference.
        """
        before, now = last.state.get("contents"), self.progress.contents
        if before is None:
            if sorted_as_text_only(now["classes"]):
                raise ConfigError(
                    f"The checkpoint of step {last.step} can't be used: it was made when class folders "
                    "of numbers were sorted as numbers (2 before 10), and they are sorted as text now "
                    "(10 before 2): the labels would be swapped. Begin a new run, in another --run-dir."
                )
            self._say(
                f"The checkpoint of step {last.step} does not say which classes and images its run "
                "has, as checkpoints do now: they are taken to be the same."
            )
            return
        lists = [RunFolder(place.folder.parent).images for place in places]
        if differences := contents.differences(before, now, self._images, lists):
            raise ConfigError(
                f"The checkpoint of step {last.step} can't be used: its run has other classes or "
                f"images. {'; '.join(differences)}. Make them as they were, or begin a new run in "
                "another --run-dir."
            )

    def train(self) -> None:
        """Trains until the end, or the step at which the run is to stop."""
        stop_at = min(self.total_steps, self._config.run.max_steps or self.total_steps)
        while self.progress.step < stop_at:
            try:
                with self._errors_in_one_line():
                    for begin, end in segments(
                        self.progress.step, self.total_steps, self._steps_per_epoch
                    ):
                        self._fit(begin, end)
            except Stopped:
                return
            except Diverged as error:
                self._get_past(error)

    def stop(self) -> None:
        """Says how the run goes on another time."""
        self._say(
            f"Stopped at step {self.progress.step}, as asked. To go on, give the same command without "
            "`max_steps`, or with a later one."
        )

    def finish(self) -> dict[str, Any]:
        """Evaluates the trained model and saves it; returns the report."""
        config, folder = self._config, self._folder
        with self._trainer.averaged():
            weights = self._trainer.cvt.get_weights()
        with self._errors_in_one_line():
            trainer, result = self._evaluate(weights)
        report = make_report(
            config,
            trainer,
            result,
            self.progress,
            min(self._steps_per_epoch, self.progress.step),
            precision=self._policy,
            strategy=distribute.describe(self._strategy),
        )
        if self._chief:
            # A fresh model for the file: without what training has added to the layers.
            model = build_model(config.replace(weights=None), self._images, activation="softmax")
            model.set_weights(weights)
            model = keras_cvt.with_class_names(model, self._images.class_ids)
            with replacing(folder.model) as temporary:
                model.save(temporary)
            curves.save(self.progress.epochs, folder.curves)
            write_json(folder.report, report)
        return report

    def _evaluate(self, weights: list[Any]) -> tuple[Trainer, dict[str, float]]:
        """Evaluates what is saved: these weights in float32, whatever the run computed with.

        Raises:
            RunError: If no image counts, or the loss shows that the last step has spoiled the weights.
        """
        with self._strategy.scope():
            cvt = build_model(self._config.replace(weights=None), self._images)
            cvt.set_weights(weights)
            trainer = Trainer(cvt)
            trainer.compile(jit_compile=self._config.run.jit_compile)
        result = trainer.evaluate(
            self._validation, steps=self._validation_steps, return_dict=True, verbose=0
        )
        check_counted(trainer)
        if not result["loss"] <= self._config.run.max_loss:
            raise RunError(
                f"The loss of the trained model is {result['loss']:.4g}: it has diverged."
            )
        return trainer, result

    def _make_trainer(self, with_weights: bool) -> Trainer:
        """The model with its step, with the weights that the config names or random ones."""
        config, asked = self._config, self._config.optimization
        keras.utils.set_random_seed(config.run.seed)
        with self._strategy.scope():
            # Logits, of which the loss is more exact than of probabilities.
            cvt = build_model(
                config if with_weights else config.replace(weights=None),
                self._images,
                dtype=self._policy,
            )
            distribute.prepare(cvt, self._strategy)
            optim.freeze_without_effect(cvt)
            trainer = self._trainer_of(cvt, asked.accumulation, asked.clip_norm, asked.ema)
            scaled = self._policy == "mixed_float16"
            trainer.compile(
                optim.optimizer(config, cvt, self._steps_per_epoch, scaled=scaled),
                jit_compile=config.run.jit_compile,
            )
        return trainer

    def _validation_batches(self) -> Any:
        """The evaluation's batches, again and again: after each epoch, `_validation_steps` of them."""
        asked, images = self._config.optimization, self._images.validation
        batch_size = asked.batch_size // asked.accumulation  # what fits into memory
        self._validation_steps = math.ceil(images.count / batch_size)
        return distribute.distributed(
            self._strategy,
            lambda **part: data.evaluation_batches(
                self._config.data, images, self._damaged, batch_size, **part
            ).repeat(),
        )

    def _fit(self, begin: int, end: int) -> None:
        """Trains from one step to another, within an epoch or over whole ones."""
        recorder = Recorder(
            self._config,
            self.progress,
            self._state,
            checkpoints=self._checkpoints if self._chief else None,
            folder=self._folder if self._chief else None,
            steps_per_epoch=self._steps_per_epoch,
            total_steps=self.total_steps,
            means=self._means if begin % self._steps_per_epoch else {},
        )
        batches = functools.partial(
            data.training_batches,
            self._config,
            self._images,
            self._damaged,
            first_step=begin,
            attempt=self.progress.attempt,
        )
        self._watch = None
        if self._config.data.data_service is not None:
            replicas = len(self._strategy.extended.worker_devices)
            self._watch = ServiceWatch(self._config.data.data_service, replicas)
        watch = self._watch
        batches = distribute.distributed(
            self._strategy,
            batches if watch is None else lambda **part: watch.counted(batches(**part)),
        )
        if self._chief:  # now that nothing is wrong with it
            write_json(self._folder.config, self._config.to_dict())
            write_text(self._folder.labels, "".join(f"{c}\n" for c in self._images.class_ids))
            contents.write(self._images, self._folder.images)
        with (
            contextlib.closing(recorder),
            watch or contextlib.nullcontext(),
            warnings.catch_warnings(),
        ):
            # The recorder says it, in one line.
            warnings.filterwarnings("ignore", ".*input ran out of data")
            self._trainer.fit(
                batches,
                initial_epoch=begin // self._steps_per_epoch,
                epochs=math.ceil(end / self._steps_per_epoch),
                steps_per_epoch=min(self._steps_per_epoch, end - begin),
                shuffle=False,  # done already
                validation_data=self._validation,
                validation_steps=self._validation_steps,
                callbacks=[recorder] if watch is None else [watch, recorder],
                # A bar that moves needs a terminal. Elsewhere: a line for each epoch.
                verbose=0 if not self._chief else 1 if sys.stdout.isatty() else 2,
            )

    def _get_past(self, divergence: Diverged) -> None:
        """Goes back to the last checkpoint, for other random draws.

        Raises:
            RunError: If that is not asked for, has been tried too often, or there is no checkpoint.
        """
        saved, attempt = self._checkpoints.steps(), self.progress.attempt + 1
        last = f"The last checkpoint is of step {saved[-1]}." if saved else "It has no checkpoint."
        asked = self._config.run.on_divergence == "resume"
        if not asked or attempt > _MOST_ATTEMPTS or not saved:
            raise RunError(
                f"{divergence} {last} A lower learning_rate, a clip_norm or more warmup_epochs may "
                "help, or on_divergence=resume."
            ) from None
        self._say(
            f"{divergence} {last} Going back there for other random draws, attempt {attempt}."
        )
        self._means = self._go_back(find_checkpoint(self._strategy, [self._checkpoints]))
        self.progress.attempt = attempt
        distribute.reseed(self._trainer.cvt, attempt)

    def _go_back(self, checkpoint: RunCheckpoint) -> dict[str, Any]:
        """Goes back to a checkpoint; returns the means of an epoch that is not finished."""
        try:
            means = self._state.restore(checkpoint)
        except ValueError as error:
            raise ConfigError(
                f"The checkpoint of step {checkpoint.step} can't be used: {error}."
            ) from None
        self._say(f"Going on after step {checkpoint.step}.")
        return means

    @contextlib.contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Says in one line why TensorFlow gave up, where it is known."""
        several = isinstance(self._strategy, tf.distribute.MultiWorkerMirroredStrategy)
        service = self._config.data.data_service
        try:
            yield
        except (tf.errors.OpError, MemoryError) as error:
            if isinstance(self._damaged.error, data.StorageError):
                raise self._damaged.error from None
            if self._damaged.error is not None:
                raise RunError(str(self._damaged.error)) from None
            if self._watch is not None and self._watch.lost is not None:
                raise DataLost(self._watch.lost) from None
            if (disk := as_disk_error(error)) is not None:
                raise disk from None
            if isinstance(error, (tf.errors.ResourceExhaustedError, MemoryError)):
                raise RunError(
                    "The memory of the devices is too small: `accumulation` takes a batch in smaller "
                    "parts."
                ) from None
            if several and (reason := lost_worker(error)):
                raise WorkerLost(f"Another worker is gone: {reason}") from None
            if service is not None and is_unanswered(error):
                raise DataLost(f"The data service {service} fails: {one_line(error)}") from None
            raise

    def _say(self, message: str) -> None:
        if self._chief:
            print(message)


def find_checkpoint(
    strategy: tf.distribute.Strategy, places: Sequence[RunCheckpoints]
) -> RunCheckpoint | None:
    """The newest checkpoint of the first place that has one, the same on all workers."""
    for place in places:
        checkpoint = place.latest() if distribute.is_chief(strategy) else None
        step = distribute.agree(strategy, -1 if checkpoint is None else checkpoint.step)
        if step >= 0:
            try:
                return checkpoint or place.read(step)
            except RunCheckpointError as error:
                raise ConfigError(
                    f"The checkpoint of step {step} can't be used: {error}. All workers must reach the "
                    "same run folder."
                ) from None
    return None


def segments(step: int, total_steps: int, steps_per_epoch: int) -> list[tuple[int, int]]:
    """The parts of a run that `fit` can do at once, which are whole epochs, or part of one.

    Returns:
        (steps done before, steps done after) of: the rest of an epoch that is begun; the whole
        epochs; a last part, if the run ends within an epoch.
    """
    edges = [step, -(-step // steps_per_epoch) * steps_per_epoch]
    edges += [max(edges[1], total_steps // steps_per_epoch * steps_per_epoch), total_steps]
    edges = [min(edge, total_steps) for edge in edges]
    return [(begin, end) for begin, end in itertools.pairwise(edges) if begin < end]
