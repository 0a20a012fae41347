"""Trains a CvT: `python -m training.train --config NAME [--set key=value ...] [--run-dir DIR]`.

A run lives in one folder:

    config.json    what was asked
    checkpoints/   the latest, one after each epoch and each `checkpoint_steps`
    tensorboard/   curves: `tensorboard --logdir DIR`
    history.csv    the epochs' numbers
    model.keras    the trained model: from normalized images to probabilities
    curves.png     loss, accuracy and learning rate over the epochs
    report.json    the result; written last, so a run that has it is finished

A run begins with the first of these that there is:

1. the folder's report: the run is finished; says so, and trains no more;
2. the folder's newest checkpoint that is complete and not damaged: whatever stopped the run, it ends
   with the same weights as if nothing had, bit for bit, on the same devices;
3. with `--resume FOLDER`, the newest checkpoint in that other run's folder, which must have the same
   config: for going on elsewhere;
4. the config's `weights`;
5. random weights.

A folder with a run of another config is left alone: an error names what differs. So is one that
another process is writing.

On several machines, start the same command on each, with one run folder that all can reach; see
`training.distribute`, and `training.supervise` for restarting workers that died.

Exit status: 0 done, or stopped as asked; 1 failed, as when the disk is full; 2 can't be done as asked;
3 can't go on, nor if started again (diverged, too many damaged images, too little memory); 75 another
worker is gone, and all are to be started again; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from training import config as configs
from training import startup
from training.checkpoints import Checkpoint, CheckpointError, Checkpoints, DiskError, RunLock
from training.config import Config, ConfigError
from training.files import replacing, write_text

# TensorFlow takes seconds to import. What needs it is imported where it is used, after everything
# that can be said about the command line without it.

CANNOT_GO_ON = 3
WORKER_LOST = 75  # "temporary failure" among the conventional exit statuses
_MOST_ATTEMPTS = 3  # at getting past a divergence


class RunError(Exception):
    """A run that can't go on, nor if it is started again. The message is one line."""


class WorkerLost(Exception):
    """Another worker does not answer any more. The message is one line."""


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    run_dir = None
    try:
        arguments = _parser().parse_args(argv)
        run_dir = arguments.run_dir or Path("runs") / arguments.config
        strategy = [] if arguments.strategy is None else [f"strategy={arguments.strategy}"]
        config = configs.load(arguments.config, arguments.set + strategy)
        resume = other_run(config, arguments.resume)
        report = open_run(config, run_dir)
        if report is not None:
            print(f"{run_dir} is finished already: nothing to train.")
        else:
            print(f"Run {run_dir}: starting TensorFlow.", flush=True)
            startup.quiet_tensorflow()
            startup.make_deterministic()
            report = train(config, run_dir, resume)
    except (ConfigError, RunError, WorkerLost, DiskError) as error:
        print(f"training.train: error: {error}", file=sys.stderr)
        if run_dir is not None:
            with contextlib.suppress(OSError):  # a folder made for a run that can't be, still empty
                run_dir.rmdir()
        if isinstance(error, WorkerLost):
            # Not the usual way: TensorFlow would wait for the other worker.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(WORKER_LOST)
        return {ConfigError: 2, RunError: CANNOT_GO_ON}.get(type(error), 1)
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on after the last checkpoint.")
        return 130
    if report is not None:
        print(summary(report, run_dir))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = configs.OneLineErrors(
        prog="training.train",
        description="Trains a CvT, or goes on with it where it was stopped.",
        epilog="The keys of --set are the fields of training.config.Config, which says what they mean.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, metavar="NAME", help="one of: " + ", ".join(configs.names())
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a field of the config",
    )
    parser.add_argument(
        "--strategy",
        choices=configs.STRATEGIES,
        help="the devices; the same as --set strategy=..., see training.distribute",
    )
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="another run's folder to go on from"
    )
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/NAME")
    return parser


def open_run(config: Config, run_dir: Path) -> dict[str, Any] | None:
    """Makes the run's folder if there is none; returns the report if the run is finished.

    Raises:
        ConfigError: if the folder can't be used, or has a run with another config.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        asked_before = json.loads(_read(run_dir / "config.json") or "null")
        report = json.loads(_read(run_dir / "report.json") or "null")
        differences = [] if asked_before is None else config.differences(asked_before)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"The run folder {run_dir} can't be used: {error}") from None
    if differences:
        raise ConfigError(
            f"{run_dir} has a run with another config: {'; '.join(differences)}. Ask for the same, or "
            "choose another --run-dir."
        )
    return report


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def train(
    config: Config, run_dir: Path, resume: Sequence[Checkpoints] = ()
) -> dict[str, Any] | None:
    """Trains until the run is finished, or until `config.max_steps`.

    Args:
        config: of the run.
        run_dir: folder of the run, that exists.
        resume: of other runs, to go on from if this one has no checkpoint.

    Returns:
        The report, or None if the run stopped before its end.

    Raises:
        ConfigError: if the run can't be done as asked; nothing has been written then.
        RunError: if it can't go on: diverged, too many images are damaged, or too little memory.
        WorkerLost: if another worker does not answer.
        DiskError: if a checkpoint can't be written.
    """
    from training import distribute

    # The devices, before anything runs on them.
    strategy = distribute.choose(config)
    if distribute.is_chief(strategy):
        with RunLock(run_dir):
            return _train(config, run_dir, resume, strategy)
    return _train(config, run_dir, resume, strategy)


def _train(
    config: Config, run_dir: Path, resume: Sequence[Checkpoints], strategy: Any
) -> dict[str, Any] | None:
    import keras

    import keras_cvt
    from training import curves, data, distribute, optim, record
    from training.step import Trainer

    chief = distribute.is_chief(strategy)
    say = print if chief else _nothing
    progress = record.Progress()
    damaged = data.Damaged(config.max_damaged, progress.damaged)

    # The images, of which the devices share each batch.
    images = data.load(config)
    steps_per_epoch = data.steps_per_epoch(config, images)
    total_steps = data.total_steps(config, images)

    # How far an earlier session has come.
    checkpoints = Checkpoints(run_dir / "checkpoints", keep=config.keep_checkpoints)
    begun = find_checkpoint(strategy, [checkpoints, *resume])

    # The model gives logits, of which the loss is more exact than of probabilities. The weights that a
    # run begins with are needed at its beginning only, and may be gone by now.
    keras.utils.set_random_seed(config.seed)
    policy = distribute.policy(config)
    without_weights = dataclasses.replace(config, weights=None)
    with strategy.scope():
        cvt = build_model(without_weights if begun else config, images, dtype=policy)
        distribute.prepare(cvt, strategy)
        optim.freeze_without_effect(cvt)
        trainer = Trainer(cvt, config.accumulation, config.clip_norm, config.ema)
        trainer.compile(
            optim.optimizer(config, cvt, steps_per_epoch, scaled=policy == "mixed_float16"),
            jit_compile=config.jit_compile,
        )
    say(config.table())
    say(
        f"CvT with {keras_cvt.complexity(cvt).parameters:,} parameters in {policy}, "
        f"{images.train.count:,} training images, {steps_per_epoch:,} steps each epoch, "
        f"{distribute.describe(strategy)}."
    )

    state = record.State(trainer, progress)
    means = go_back(state, begun, say) if begun else {}
    del begun  # which is as large as all weights and averages

    # The training, until the end or a stop.
    judged = config.batch_size // config.accumulation  # what fits into memory
    validation_steps = -(-images.held_out.count // judged)
    validation = distributed(
        strategy,
        # Again and again: after each epoch, so many steps are taken of it.
        lambda **part: data.evaluation_batches(
            config, images.held_out, damaged, judged, **part
        ).repeat(),
    )
    stop_at = min(total_steps, config.max_steps or total_steps)
    while progress.step < stop_at:
        try:
            with _translated(damaged, strategy):
                for begin, end in segments(progress.step, total_steps, steps_per_epoch):
                    epochs = -(-end // steps_per_epoch)
                    recorder = record.Recorder(
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
        except record.Stopped:
            break
        except record.Diverged as error:
            steps = checkpoints.steps()
            last = (
                f"The last checkpoint is of step {steps[-1]}." if steps else "It has no checkpoint."
            )
            if config.on_divergence == "stop" or progress.attempt == _MOST_ATTEMPTS or not steps:
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
    with _translated(damaged, strategy), trainer.averaged():
        result = trainer.evaluate(
            validation,
            steps=validation_steps,
            return_dict=True,
            verbose=0,
        )
        weights = cvt.get_weights()
    report = _report(config, images, trainer, result, progress, strategy)
    if chief:
        # A fresh model for the file: without what training has added to the layers.
        final_model = build_model(without_weights, images, activation="softmax")
        final_model.set_weights(weights)
        with replacing(run_dir / "model.keras") as beside:
            final_model.save(beside)
        curves.save(progress.epochs, run_dir / "curves.png")
        write_text(run_dir / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def _report(
    config: Config,
    images: Any,
    trainer: Any,
    result: dict[str, float],
    progress: Any,
    strategy: Any,
) -> dict[str, Any]:
    """A finished run's result, `result` being that of the evaluation that has just been made."""
    import keras

    import keras_cvt
    from training import data, distribute

    seen = trainer.means["top1"]
    seconds = statistics.median(epoch["training_seconds"] for epoch in progress.epochs)
    steps = min(data.steps_per_epoch(config, images), progress.step)
    return {
        "top1": result["top1"],
        "top5": result["top5"],
        "loss": result["loss"],
        "correct": round(float(keras.ops.convert_to_numpy(seen.total))),
        "images": round(float(keras.ops.convert_to_numpy(seen.count))),
        # In a typical epoch: the first includes TensorFlow's preparations.
        "images_per_second": steps * config.batch_size / seconds,
        "seconds": sum(epoch["seconds"] for epoch in progress.epochs),
        "epochs": len(progress.epochs),
        "steps": progress.step,
        "attempts": progress.attempt + 1,
        "damaged_images": sorted(progress.damaged),
        "parameters": keras_cvt.complexity(trainer.cvt).parameters,
        "seed": config.seed,
        "precision": distribute.policy(config),
        "strategy": distribute.describe(strategy),
        **versions(),
    }


def _nothing(*_: Any) -> None:
    pass


def other_run(config: Config, resume: Path | None) -> list[Checkpoints]:
    """The checkpoints of another run, to go on from if the run itself has none.

    Raises:
        ConfigError: if there are none, or the other run has another config.
    """
    if resume is None:
        return []
    try:
        asked_before = json.loads((resume / "config.json").read_text(encoding="utf-8"))
        differences = config.differences(asked_before)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"--resume {resume} is no run's folder: {error}") from None
    if differences:
        raise ConfigError(f"--resume {resume} has another config: {'; '.join(differences)}.")
    other = Checkpoints(resume / "checkpoints", keep=1)
    if not other.steps():
        raise ConfigError(f"--resume {resume} has no complete checkpoint.")
    return [other]


def find_checkpoint(strategy: Any, places: list[Checkpoints]) -> Checkpoint | None:
    """The newest checkpoint of the first place that has one, the same on all workers."""
    from training import distribute

    for place in places:
        checkpoint = place.latest() if distribute.is_chief(strategy) else None
        step = distribute.agree(strategy, -1 if checkpoint is None else checkpoint.step)
        if step >= 0:
            try:
                return checkpoint or place.read(step)
            except CheckpointError as error:
                raise ConfigError(
                    f"The checkpoint of step {step} can't be used: {error}. All workers must reach the "
                    "same run folder."
                ) from None
    return None


def go_back(state: Any, checkpoint: Checkpoint, say: Any) -> dict[str, Any]:
    """Goes back to a checkpoint; returns the means of an epoch that is not finished."""
    try:
        means = state.restore(checkpoint)
    except ValueError as error:
        raise ConfigError(
            f"The checkpoint of step {checkpoint.step} can't be used: {error}."
        ) from None
    say(f"Going on after step {checkpoint.step}.")
    return means


def distributed(strategy: Any, batches: Callable[..., Any]) -> Any:
    """The batches of `training.data`, of which each worker and replica gets its part."""
    from training import distribute

    def of_worker(context):
        return batches(
            worker=context.input_pipeline_id,
            workers=context.num_input_pipelines,
            replicas=context.num_replicas_in_sync // context.num_input_pipelines,
        )

    shared = strategy.distribute_datasets_from_function(of_worker)
    shared.__class__ = distribute.ParallelBatches
    return shared


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
def _translated(damaged: Any, strategy: Any) -> Iterator[None]:
    """Says in one line why TensorFlow gave up, where it is known."""
    import tensorflow as tf

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


def build_model(
    config: Config, images: Any, activation: str | None = None, dtype: str = "float32"
) -> Any:
    """The run's CvT, with its initial weights.

    Args:
        images: a `data.Data`, which says the images' channels and the classes.
        activation: "softmax", or None for logits.
        dtype: a policy of Keras.

    Returns:
        A `keras.Model` from float32 (batch, height, width, channels) to (batch, classes).

    Raises:
        ConfigError: if there is no such CvT, or its weights can't be had.
    """
    import keras_cvt

    models = {"cvt13": keras_cvt.CvT13, "cvt21": keras_cvt.CvT21, "cvtw24": keras_cvt.CvTW24}
    options = {
        "input_shape": (config.image_size, config.image_size, images.channels),
        "weights": config.weights,
        "classes": len(images.class_names),
        "classifier_activation": activation,
        "recompute": config.recompute,
        "dtype": dtype,
    }
    if configs.INITS[config.init] is not None:
        options["kernel_initializer"] = configs.INITS[config.init]
    try:
        if config.model != "custom":
            if config.drop_path_rate is not None:
                options["drop_path_rate"] = config.drop_path_rate
            return models[config.model](**options)
        return keras_cvt.CvT(_stages(config), **options)
    except (ValueError, OSError) as error:
        raise ConfigError(f"There is no such model. {error}") from error


def _stages(config: Config) -> list[Any]:
    """A custom CvT's."""
    import keras_cvt

    last = len(config.dims) - 1
    size, stride, padding = config.patch
    first = {"patch_size": size, "patch_stride": stride, "patch_padding": padding}
    shapes = zip(config.dims, config.depths, config.heads, strict=True)
    return [
        keras_cvt.StageConfig(
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            class_token=i == last,
            drop_path_rate=(config.drop_path_rate or 0.0) if i == last else 0.0,
            **(first if i == 0 else {}),
        )
        for i, (dim, depth, heads) in enumerate(shapes)
    ]


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    import keras
    import tensorflow as tf

    import keras_cvt

    return {
        "keras_cvt": keras_cvt.__version__,
        "keras": keras.version(),
        "tensorflow": tf.__version__,
        "python": platform.python_version(),
    }


def summary(report: dict[str, Any], run_dir: Path) -> str:
    """A finished run in a few lines."""
    return f"""
Held-out accuracy {report["top1"]:.2%} ({report["correct"]} of {report["images"]} images), \
top-5 {report["top5"]:.2%}, loss {report["loss"]:.4f}
{report["epochs"]} epochs in {report["seconds"]:.0f} s, {report["images_per_second"]:.0f} images/s

{run_dir / "model.keras"}  the trained model
{run_dir / "curves.png"}   how it went
{run_dir / "report.json"}  these numbers, and more"""


if __name__ == "__main__":
    sys.exit(main())
