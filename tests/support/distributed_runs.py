"""Short trainings of a tiny CvT, for test_distribute.py, in processes of their own.

    python distributed_runs.py devices FOLDER    on one device and on two logical CPU devices
    python distributed_runs.py worker FOLDER     as one of the workers that TF_CONFIG names

What comes of each is FOLDER/NAME.npz, with all that a checkpoint has and the numbers of `fit`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf

import keras_cvt
from training import configs, distribute, optim, startup
from training.config import ConfigError
from training.engine.devices import devices_for
from training.engine.model import build_model
from training.engine.state import Progress, State
from training.engine.step import Trainer

BATCH, STEPS, EPOCHS, CLASSES = 16, 3, 2, 6
IMAGES = SimpleNamespace(channels=1, class_names=tuple("abcdef"))

TINY = [
    "image_size=16",
    "dims=16",
    "depths=1",
    "heads=2",
    "patch=4,4,0",
    f"batch_size={BATCH}",
    f"epochs={EPOCHS}",
    "warmup_epochs=1",
    "learning_rate=0.003",
    "weight_decay=0.05",
    # Of gradients that are rounding errors alone, a smaller one would make steps.
    "epsilon=1e-6",
]
# Each is traced for one device and for two, which takes most of the time: so there are few.
VARIANTS = {
    "adamw": ["depths=2", "drop_path_rate=0.5"],
    "sgd": ["optimizer=sgd", "learning_rate=0.1", "clip_norm=0.5"],
    # And with a loss scale, with which one step's gradient overflows; for several machines too.
    "all": ["accumulation=2", "clip_norm=0.5", "ema=0.8"],
}


def data(evaluation: bool, large: bool):
    """All rows, (steps, batch, ...). With `large`, labels of the second step's last row are: only its
    replica gets a gradient that is infinite, as the loss is scaled here."""
    rng = np.random.default_rng(3 + evaluation)
    images = rng.normal(size=(STEPS, BATCH, 16, 16, 1)).astype("float32")
    labels = np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, (STEPS, BATCH))]
    if large:
        labels[1, -1] *= 1e32
    weights = np.ones((STEPS, BATCH), "float32")
    if evaluation:
        weights[-1, 5:] = 0
        images[-1, 5:] = np.nan
        return images, labels, weights
    return images, labels


def batches(*rows):
    """For `distribute.distributed`: gives a worker its rows of each step, in a part per replica."""

    def of_worker(worker, workers, replicas):
        own = [np.array_split(array, workers, axis=1)[worker] for array in rows]
        parts = [a.reshape(STEPS * replicas, -1, *a.shape[2:]) for a in own]
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        return tf.data.Dataset.from_tensor_slices(tuple(parts)).repeat().with_options(options)

    return of_worker


def run(name: str, strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Trains as training/train.py does."""
    config = configs.load("digits", [*TINY, *VARIANTS[name]])
    keras.utils.set_random_seed(config.run.seed)
    asked, scaled = config.optimization, name == "all"
    with strategy.scope():
        cvt = build_model(config, IMAGES)
        distribute.prepare(cvt, strategy)
        optim.freeze_without_effect(cvt)
        trainer = Trainer(cvt, asked.accumulation, asked.clip_norm, asked.ema)
        trainer.compile(optim.optimizer(config, cvt, STEPS, scaled=scaled), jit_compile=False)
    if scaled:
        trainer.optimizer.dynamic_scale.assign(2.0**30)
    state = State(trainer, Progress())

    class Notes(keras.callbacks.Callback):
        norms: list[float] = []  # noqa: RUF012  of each step

        def on_train_batch_end(self, batch, logs=None):
            self.norms.append(float(logs["gradient_norm"]))

        def on_test_begin(self, logs=None):
            self.averaged = trainer.averaged()
            self.averaged.__enter__()

        def on_test_end(self, logs=None):
            self.averaged.__exit__(None, None, None)

    notes = Notes()
    history = trainer.fit(
        distribute.distributed(strategy, batches(*data(evaluation=False, large=scaled))),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_data=distribute.distributed(
            strategy, batches(*data(evaluation=True, large=False))
        ),
        validation_steps=STEPS,
        callbacks=[notes],
        shuffle=False,
        verbose=0,
    ).history
    checkpoint = state.checkpoint()
    state.restore_means(state.restore(checkpoint))  # on all replicas, and it changes nothing
    again = state.checkpoint().arrays
    assert all(np.array_equal(again[k], v) for k, v in checkpoint.arrays.items())
    return {
        **checkpoint.arrays,
        "norms": np.array(notes.norms),
        **{f"history/{key}": np.array(values) for key, values in history.items()},
    }


def refused(overrides: list[str]) -> str:
    try:
        devices_for(configs.load("digits", [*TINY, "logical_cpus=2", *overrides]))
    except ConfigError as error:
        return str(error)
    return ""


def masks(strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """What dropout and drop path let through on each replica, in two successive steps."""
    found = {}
    with strategy.scope():
        layers = {
            "dropout": keras.layers.Dropout(0.5, seed=3),
            "path": keras_cvt.DropPath(0.5, seed=3),
        }
        models = {k: keras.Sequential([keras.Input((1,)), v]) for k, v in layers.items()}
        for model in models.values():
            distribute.prepare(model, strategy)
    for name, model in models.items():
        ones = tf.ones((64 // strategy.num_replicas_in_sync, 1))
        step = tf.function(lambda model=model, ones=ones: model(ones, training=True))
        for number in range(2):
            values = strategy.experimental_local_results(strategy.run(step))
            found[f"{name}{number}"] = np.stack([value.numpy()[:, 0] for value in values])
    return found


def main(what: str, folder: Path) -> None:
    startup.make_deterministic()
    if what == "worker":
        strategy = devices_for(configs.load("digits", [*TINY, "strategy=multi_worker"]))
        told = {
            "chief": distribute.is_chief(strategy),
            "described": distribute.describe(strategy),
            "agreed": distribute.agree(strategy, 7 if distribute.is_chief(strategy) else 8),
            "alike": [
                distribute.all_have(strategy, number)
                for number in (2**60 - 1, 7 if distribute.is_chief(strategy) else 8)
            ],
        }
        number = strategy.cluster_resolver.task_id
        np.savez(folder / f"worker{number}.npz", **run("all", strategy))
        (folder / f"worker{number}.json").write_text(json.dumps(told))
        return
    strategies = {
        name: devices_for(configs.load("digits", [*TINY, "logical_cpus=2", f"strategy={name}"]))
        for name in ("one_device", "mirrored")
    }
    for name, strategy in strategies.items():
        np.savez(folder / f"{name}-masks.npz", **masks(strategy))
        for variant in VARIANTS:
            np.savez(folder / f"{name}-{variant}.npz", **run(variant, strategy))
    told = {
        "described": [distribute.describe(strategy) for strategy in strategies.values()],
        "chief": [distribute.is_chief(strategy) for strategy in strategies.values()],
        "agreed": [distribute.agree(strategy, 7) for strategy in strategies.values()],
        "batch": refused(["strategy=mirrored", "batch_size=15"]),
        "parts": refused(["strategy=mirrored", "batch_size=18", "accumulation=6"]),
        "jit": refused(["strategy=mirrored", "jit_compile=true"]),
        "split": refused(["strategy=mirrored", "logical_cpus=3"]),
    }
    (folder / "devices.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
