"""How right candidates are with the weights that they share."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from keras_cvt._keras_internal import flatten_layers
from training import data, distribute
from training.config import CUSTOM, Config
from training.engine.errors import RunError
from training.engine.model import build_model
from training.engine.step import Counted, Trainer
from training.search.network import SharedNetwork
from training.search.space import Candidate, Space


class CandidateEvaluator:
    """Counts the images that candidates name rightly, of those that the shared network was not shown.

    A candidate's statistics of BatchNorm are taken anew before: those of the shared network are a
    mixture of all candidates'. They are the means over some batches of the run's training images,
    always the same, of what each batch shows.

    Args:
        config: Of the shared network's run.
        space: What the candidates are.
        weights: Of the shared network, NumPy arrays in the order of its model's.
        images: The run's.
        strategy: The devices.
    """

    def __init__(
        self,
        config: Config,
        space: Space,
        weights: list[Any],
        images: data.RunData,
        strategy: tf.distribute.Strategy,
    ):
        self._damaged = damaged = data.Damaged(config.data.max_damaged)
        with strategy.scope():
            cvt = build_model(_without_dropping(config, space), images)
            cvt.set_weights(weights)
            distribute.prepare(cvt, strategy)
            self._trainer = _CandidateTrainer(cvt, space)
            self._trainer.compile(jit_compile=config.run.jit_compile)
        size = config.optimization.batch_size // config.optimization.accumulation
        self._steps = math.ceil(images.validation.count / size)
        self._validation = distribute.distributed(
            strategy,
            lambda **part: data.evaluation_batches(
                config.data, images.validation, damaged, size, **part
            ),
        )
        self._batches = config.search.calibration
        self._shown = iter(
            distribute.distributed(
                strategy, lambda **part: _calibration_images(config, images, damaged, size, part)
            )
        )
        self._calibrate = self._trainer.calibration()

    def evaluate(self, candidate: Candidate) -> Counted:
        """How many images of how many a candidate names rightly.

        Raises:
            RunError: If too many images are damaged.
            StorageError: If images can't be read.
        """
        self._trainer.candidate.assign(candidate)
        try:
            for number in range(self._batches):
                # The mean of all batches so far.
                self._trainer.kept.assign(number / (number + 1))
                self._calibrate(self._shown)
            self._trainer.evaluate(self._validation, steps=self._steps, verbose=0)
        except tf.errors.OpError:
            if isinstance(self._damaged.error, data.StorageError):
                raise self._damaged.error from None
            if self._damaged.error is not None:
                raise RunError(str(self._damaged.error)) from None
            raise
        return self._trainer.counted("top1")


class _CandidateTrainer(Trainer):
    """Evaluates the candidate that a variable says.

    Attributes:
        candidate: int32 (choices,).
        kept: float32 (), the share of BatchNorm's statistics that a calibration step keeps.
    """

    def __init__(self, cvt: keras.Model, space: Space):
        super().__init__(cvt)
        self._network = SharedNetwork(cvt, space)
        options = {
            "trainable": False,
            "aggregation": tf.VariableAggregation.ONLY_FIRST_REPLICA,
        }
        self.candidate = tf.Variable(space.largest, dtype=tf.int32, **options)
        self.kept = tf.Variable(0.0, **options)
        for layer in flatten_layers(cvt):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = self.kept

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 logits of the candidate."""
        return tf.cast(self._network(images, self.candidate, training), tf.float32)

    def calibration(self) -> Any:
        """A function that takes statistics of an iterator's next batch."""

        @tf.function
        def function(iterator):
            self.distribute_strategy.run(
                lambda images: self(images, training=True), (next(iterator),)
            )

        return function


def _without_dropping(config: Config, space: Space) -> Config:
    """The shared network's run, but that nothing is dropped: statistics are to be of the whole."""
    rates = dict.fromkeys(("drop_rate", "attention_drop_rate", "drop_path_rate"), 0.0)
    stages = tuple(dataclasses.replace(stage, **rates) for stage in space.largest_stages)
    return config.replace(
        model=CUSTOM, dims=(), depths=(), heads=(), stages=stages, drop_path_rate=None, weights=None
    )


def _calibration_images(
    config: Config, images: data.RunData, damaged: data.Damaged, size: int, part: dict[str, int]
) -> tf.data.Dataset:
    """Batches of the run's first training images, again and again, in this worker's share."""
    batches = data.training_batches(config, images, damaged, **part)
    shown = batches.map(lambda images, labels: images).unbatch()
    rows = size // part["workers"] // part["replicas"]
    shown = shown.batch(rows, drop_remainder=True)
    return shown.take(config.search.calibration * part["replicas"]).cache().repeat()
