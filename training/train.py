"""Trains a CvT: `python -m training.train --config digits [--set key=value ...] [--run-dir DIR]`.

A run lives in one folder:

    config.json    what was asked
    checkpoints/   the latest, one after each epoch
    model.keras    the trained model: from normalized images to probabilities
    curves.png     loss, accuracy and learning rate over the epochs
    report.json    the result; written last, so a run that has it is finished

Running the same command again looks into that folder, and

1. if there is a report, the run is finished: says so, and trains no more;
2. else, if there is a complete checkpoint, goes on after its epoch: whatever stopped the run, it
   ends with the same weights as if nothing had, bit for bit;
3. else starts from the beginning.

A folder with a run of another config is left alone: an error names what differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

from training import config as configs
from training import startup
from training.config import Config, ConfigError
from training.files import replacing, write_text

# TensorFlow takes seconds to import. What needs it is imported where it is used, after everything
# that can be said about the command line without it.


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 2 can't be done as asked, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    run_dir = arguments.run_dir or Path("runs") / arguments.config
    try:
        config = configs.load(arguments.config, arguments.set)
        report = open_run(config, run_dir)
        if report is not None:
            print(f"{run_dir} is finished already: nothing to train.")
        else:
            print(f"Run {run_dir}: starting TensorFlow.", flush=True)
            startup.quiet_tensorflow()
            startup.make_deterministic()
            report = train(config, run_dir)
    except ConfigError as error:
        print(f"training.train: error: {error}", file=sys.stderr)
        with contextlib.suppress(OSError):  # a folder made for a run that can't be, still empty
            run_dir.rmdir()
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on after the last finished epoch.")
        return 130
    if report is None:
        print(
            f"Stopped after epoch {config.stop_after_epochs} of {config.epochs}, as asked. To go on, "
            "give the same command without `stop_after_epochs`, or with a later one."
        )
    else:
        print(summary(report, run_dir))
    return 0


def _parser() -> argparse.ArgumentParser:
    class OneLineErrors(argparse.ArgumentParser):
        def error(self, message):
            self.exit(2, f"{self.prog}: error: {message}\n")

    parser = OneLineErrors(
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


def train(config: Config, run_dir: Path) -> dict[str, Any] | None:
    """Trains until the run is finished, or until `config.stop_after_epochs`.

    Args:
        config: of the run.
        run_dir: folder of the run, that exists.

    Returns:
        The report, or None if the run stopped before its end.

    Raises:
        ConfigError: if the run can't be done as asked; nothing has been written then.
    """
    import keras

    from training import checkpoints, curves, data, distribute, optim

    # The devices, before anything runs on them; and the images, of which they share each batch.
    strategy = distribute.choose(config)
    images = data.load(config)
    steps_per_epoch = data.steps_per_epoch(config, images)

    # The model gives logits, of which the loss is more exact than of probabilities.
    keras.utils.set_random_seed(config.seed)
    with strategy.scope():
        model = build_model(config, images, classifier_activation=None)
        distribute.prepare(model, strategy)
        model.compile(
            optimizer=optim.optimizer(config, model, steps_per_epoch),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            # XLA fails with several replicas, and compiling takes longer than a short run.
            jit_compile=False,
        )
    print(
        f"CvT with {parameters(model):,} parameters, {len(images.train.labels):,} training images, "
        f"{distribute.describe(strategy)}."
    )

    # How far an earlier session has come.
    write_text(run_dir / "config.json", json.dumps(config.to_dict(), indent=2) + "\n")
    history = checkpoints.History()
    checkpoint = checkpoints.Checkpoints(
        model, history, run_dir / "checkpoints", keep=config.keep_checkpoints
    )
    if checkpoint.restore():
        print(f"Going on after epoch {len(history.epochs)} of {config.epochs}.")

    # The training.
    until = min(config.epochs, config.stop_after_epochs or config.epochs)
    if len(history.epochs) < until:
        model.fit(
            data.training_batches(config, images, first_epoch=len(history.epochs)),
            initial_epoch=len(history.epochs),
            epochs=until,
            shuffle=False,  # done already
            steps_per_epoch=steps_per_epoch,
            validation_data=data.evaluation_batches(config, images),
            callbacks=[checkpoints.Recorder(history, checkpoint)],
            # A bar that moves needs a terminal. Elsewhere: a line for each epoch.
            verbose=1 if sys.stdout.isatty() else 2,
        )
    if until < config.epochs:
        return None

    # What has come of it.
    result = model.evaluate(data.evaluation_batches(config, images), return_dict=True, verbose=0)
    held_out = len(images.held_out.labels)
    correct = round(result["accuracy"] * held_out)
    images_per_epoch = steps_per_epoch * config.batch_size
    training_seconds = statistics.median(epoch["training_seconds"] for epoch in history.epochs)
    report = {
        "top1": correct / held_out,
        "loss": result["loss"],
        "correct": correct,
        "images": held_out,
        # In a typical epoch: the first includes TensorFlow's preparations.
        "images_per_second": images_per_epoch / training_seconds,
        "seconds": sum(epoch["seconds"] for epoch in history.epochs),
        "epochs": len(history.epochs),
        "steps": int(keras.ops.convert_to_numpy(model.optimizer.iterations)),
        "parameters": parameters(model),
        "seed": config.seed,
        "strategy": distribute.describe(strategy),
        **versions(),
    }

    # A fresh model for the file: without what training has added to the layers for the replicas.
    final_model = build_model(config, images, classifier_activation="softmax")
    final_model.set_weights(model.get_weights())
    with replacing(run_dir / "model.keras") as beside:
        final_model.save(beside)
    curves.save(history.epochs, run_dir / "curves.png")
    write_text(run_dir / "report.json", json.dumps(report, indent=2) + "\n")
    return report


def build_model(config: Config, images: Any, classifier_activation: str | None) -> Any:
    """The run's CvT, with random weights.

    Args:
        images: a `data.Data`, which says the images' shape and the classes.
        classifier_activation: "softmax", or None for logits.

    Returns:
        A `keras.Model` from float32 (batch, height, width, channels) to float32 (batch, classes).

    Raises:
        ConfigError: if there is no such CvT.
    """
    import keras_cvt

    last = len(config.dims) - 1
    size, stride, padding = config.patch
    try:
        return keras_cvt.CvT(
            [
                keras_cvt.StageConfig(
                    embed_dim=dim,
                    depth=depth,
                    num_heads=heads,
                    class_token=i == last,
                    drop_path_rate=config.drop_path_rate if i == last else 0.0,
                    **(
                        {"patch_size": size, "patch_stride": stride, "patch_padding": padding}
                        if i == 0
                        else {}
                    ),
                )
                for i, (dim, depth, heads) in enumerate(
                    zip(config.dims, config.depths, config.heads, strict=True)
                )
            ],
            input_shape=images.train.images.shape[1:],
            classes=len(images.class_names),
            classifier_activation=classifier_activation,
            kernel_initializer=configs.INITS[config.init],
        )
    except ValueError as error:
        raise ConfigError(f"There is no such model. {error}") from error


def parameters(model: Any) -> int:
    """How many numbers are learned."""
    return sum(weight.shape.num_elements() for weight in model.trainable_weights)


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
loss {report["loss"]:.4f}
{report["epochs"]} epochs in {report["seconds"]:.0f} s, {report["images_per_second"]:.0f} images/s

{run_dir / "model.keras"}  the trained model
{run_dir / "curves.png"}   how it went
{run_dir / "report.json"}  these numbers, and more"""


if __name__ == "__main__":
    sys.exit(main())
