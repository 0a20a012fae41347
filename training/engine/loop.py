"""A run, from its beginning or its last checkpoint to its end."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

import keras_cvt
from training import data, distribute, optim
from training.config import Config, ConfigError
from training.distribute.batches import distributed
from training.engine import callbacks
from training.engine.devices import policy_for
from training.engine.errors import RunError, WorkerLost
from training.engine.model import build_model
from training.engine.run_checkpoints import RunCheckpoint, RunCheckpointError, RunCheckpoints
from training.engine.state import Progress, State
from training.engine.step import Trainer
from training.files import replacing, write_text
from training.runs import curves
from training.runs.report import make_report

_MOST_ATTEMPTS = 3  # at getting past a divergence


def train_run(
    config: Config, run_dir: Path, resume: Sequence[RunCheckpoints], strategy: Any
) -> dict[str, Any] | None:
    steps = config.optimization
    chief = distribute.is_chief(strategy)
    say = print if chief else _nothing
    progress = Progress()
    damaged = data.Damaged(config.data.max_damaged, progress.damaged)

    # The images, of which the devices share each batch.
    images = data.load(config)
    steps_per_epoch = data.steps_per_epoch(config, images)
    total_steps = data.total_steps(config, images)

    # How far an earlier session has come.
    checkpoints = RunCheckpoints(run_dir / "checkpoints", keep=config.run.keep_checkpoints)
    begun = find_checkpoint(strategy, [checkpoints, *resume])

    # The model gives logits, of which the loss is more exact than of probabilities. The weights that a
    # run begins with are needed at its beginning only, and may be gone by now.
    keras.utils.set_random_seed(config.run.seed)
    policy = policy_for(config)
    without_weights = config.replace(weights=None)
    with strategy.scope():
        cvt = build_model(without_weights if begun else config, images, dtype=policy)
        distribute.prepare(cvt, strategy)
        optim.freeze_without_effect(cvt)
        trainer = Trainer(cvt, steps.accumulation, steps.clip_norm, steps.ema)
        trainer.compile(
            optim.optimizer(config, cvt, steps_per_epoch, scaled=policy == "mixed_float16"),
            jit_compile=config.run.jit_compile,
        )
    say(config.table())
    say(
        f"CvT with {keras_cvt.complexity(cvt).parameters:,} parameters in {policy}, "
        f"{images.train.count:,} training images, {steps_per_epoch:,} steps each epoch, "
        f"{distribute.describe(strategy)}."
    )

    state = State(trainer, progress)
    means = go_back(state, begun, say) if begun else {}
    del begun  # which is as large as all weights and averages

    # The training, until the end or a stop.
    judged = steps.batch_size // steps.accumulation  # what fits into memory
    validation_steps = -(-images.held_out.count // judged)
    validation = distributed(
        strategy,
        # Again and again: after each epoch, so many steps are taken of it.
        lambda **part: data.evaluation_batches(
            config.data, images.held_out, damaged, judged, **part
        ).repeat(),
    )
    stop_at = min(total_steps, config.run.max_steps or total_steps)
    while progress.step < stop_at:
        try:
            with translated(damaged, strategy):
                for begin, end in segments(progress.step, total_steps, steps_per_epoch):
                    epochs = -(-end // steps_per_epoch)
                    recorder = callbacks.Recorder(
                        config,
                        progress,
                        state,
                        checkpoints=checkpoints if chief else None,
                        run_dir=run_dir if chief else None,
                        steps_per_epoch=steps_per_epoch,
                        total_steps=total_steps,
                        means=means if begin % steps_per_epoch else {},
                    )
                    batches = distributed(
                        strategy,
                        functools.partial(
                            data.training_batches,
                            config,
                            images,
                            damaged,
                            first_step=begin,
                            attempt=progress.attempt,
                        ),
                    )
                    if chief:  # now that nothing is wrong with it
                        write_text(
                            run_dir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n"
                        )
                    with contextlib.closing(recorder):
                        trainer.fit(
                            batches,
                            initial_epoch=begin // steps_per_epoch,
                            epochs=epochs,
                            steps_per_epoch=min(steps_per_epoch, end - begin),
                            shuffle=False,  # done already
                            validation_data=validation,
                            validation_steps=validation_steps,
                            callbacks=[recorder],
                            # A bar that moves needs a terminal. Elsewhere: a line for each epoch.
                            verbose=0 if not chief else 1 if sys.stdout.isatty() else 2,
                        )
        except callbacks.Stopped:
            break
        except callbacks.Diverged as error:
            saved = checkpoints.steps()
            last = (
                f"The last checkpoint is of step {saved[-1]}." if saved else "It has no checkpoint."
            )
            if (
                config.run.on_divergence == "stop"
                or progress.attempt == _MOST_ATTEMPTS
                or not saved
            ):
                raise RunError(
                    f"{error} {last} A lower learning_rate, a clip_norm or more warmup_epochs may "
                    "help, or on_divergence=resume."
                ) from None
            attempt = progress.attempt + 1
            say(f"{error} {last} Going back there for other random draws, attempt {attempt}.")
            means = go_back(state, find_checkpoint(strategy, [checkpoints]), say)
            progress.attempt = attempt
            distribute.reseed(cvt, attempt)
    if progress.step < total_steps:
        say(
            f"Stopped at step {progress.step}, as asked. To go on, give the same command without "
            "`max_steps`, or with a later one."
        )
        return None

    # What has come of it.
    with translated(damaged, strategy), trainer.averaged():
        result = trainer.evaluate(
            validation,
            steps=validation_steps,
            return_dict=True,
            verbose=0,
        )
        weights = cvt.get_weights()
    report = make_report(config, images, trainer, result, progress, strategy, policy)
    if chief:
        # A fresh model for the file: without what training has added to the layers.
        final_model = build_model(without_weights, images, activation="softmax")
        final_model.set_weights(weights)
        with replacing(run_dir / "model.keras") as beside:
            final_model.save(beside)
        curves.save(progress.epochs, run_dir / "curves.png")
        write_text(run_dir / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def _nothing(*_: Any) -> None:
    pass


def find_checkpoint(strategy: Any, places: list[RunCheckpoints]) -> RunCheckpoint | None:
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


def go_back(state: Any, checkpoint: RunCheckpoint, say: Any) -> dict[str, Any]:
    """Goes back to a checkpoint; returns the means of an epoch that is not finished."""
    try:
        means = state.restore(checkpoint)
    except ValueError as error:
        raise ConfigError(
            f"The checkpoint of step {checkpoint.step} can't be used: {error}."
        ) from None
    say(f"Going on after step {checkpoint.step}.")
    return means


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


@contextlib.contextmanager
def translated(damaged: Any, strategy: Any) -> Iterator[None]:
    """Says in one line why TensorFlow gave up, where it is known."""
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

    lost = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
    try:
        yield
    except tf.errors.OpError as error:
        if damaged.error is not None:
            raise RunError(str(damaged.error)) from None
        if isinstance(error, tf.errors.ResourceExhaustedError):
            raise RunError(
                "The memory of the devices is too small: `accumulation` takes a batch in smaller parts."
            ) from None
        lines = [line.strip() for line in str(error).splitlines() if "ollective ops is" in line]
        if several and (isinstance(error, lost) or lines):
            raise WorkerLost(
                f"Another worker is gone: {(lines or [type(error).__name__])[0]}"
            ) from None
        raise
