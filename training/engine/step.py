"""What one step of training and one of evaluation do, on any number of replicas.

Keras' own steps are wrong under some strategies: gradients are clipped before they are summed over the
replicas, accumulation and moving averages fail, and with several machines nothing works at all. So
`Trainer` has its own, which `fit` and `evaluate` call.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from training._internal import StepsOfItsOwn


@dataclasses.dataclass(frozen=True)
class Counted:
    """Images that were counted.

    Attributes:
        hits: Those with a right answer.
        images: All of them.
    """

    hits: int
    images: int


class Trainer(StepsOfItsOwn, keras.Model):
    """A CvT with what its training needs. Make it in the scope of the strategy.

    Its logs are `loss`, `top1` and `top5`, each the mean over the images of the epoch (or of the
    evaluation) so far, on all replicas; and in training `step_loss`, `gradient_norm` and
    `learning_rate`, those of the last step.

    Args:
        cvt: Model from float32 images (batch, height, width, channels) to logits (batch, classes).
        accumulation: In how many parts a batch goes through the model. Defaults to 1.
        clip_norm: Largest norm of the gradient. Defaults to None: any.
        ema: Decay of the moving average of all weights, in (0, 1). Defaults to None: no average.

    Attributes:
        traced: Whether a step has become a graph, and so can take a batch.
    """

    def __init__(
        self,
        cvt: keras.Model,
        accumulation: int = 1,
        clip_norm: float | None = None,
        ema: float | None = None,
    ):
        super().__init__(name="trainer")
        self.cvt = cvt
        self.accumulation = accumulation
        self.clip_norm = clip_norm
        self.ema = ema
        self.means = {name: keras.metrics.Mean(name=name) for name in ("loss", "top1", "top5")}
        self.averages = []
        if ema is not None:
            self.averages = [
                keras.Variable(
                    keras.ops.convert_to_numpy(weight),
                    dtype=weight.dtype,
                    trainable=False,
                    # The replicas have the same weights, so none needs to ask the others.
                    aggregation="only_first_replica",
                    name=f"{weight.path}/average".replace("/", "."),
                )
                for weight in cvt.weights
            ]
        self.built = True

        self._parts = [] if accumulation == 1 else [_own_sum(w) for w in cvt.trainable_weights]
        self._part_sums = None if accumulation == 1 else _own_sum(tf.zeros(4))
        self.jit_compile = False
        self.traced = False

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 logits, whatever the model computes with."""
        return tf.cast(self.cvt(images, training=training), tf.float32)

    def counted(self, name: str) -> Counted:
        """What `top1` or `top5` has counted since the epoch or the evaluation began."""
        mean = self.means[name]
        total, count = (keras.ops.convert_to_numpy(v) for v in (mean.total, mean.count))
        return Counted(round(float(total)), round(float(count)))

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return list(self.means.values())

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One step with a batch: images, and labels that sum to 1. Each replica has its rows of it."""
        if self.accumulation == 1:
            return self._on_replicas(self._step, data)
        self._on_replicas(self._begin_step)
        # Around the replicas, and not in each of them: in a loop of its own, a replica can't ask the
        # others for what BatchNormalization needs.
        tf.while_loop(
            lambda part: part < self.accumulation,
            lambda part: self._after(part, self._on_replicas(self._add_part, data, part)),
            [tf.constant(0)],
            parallel_iterations=1,  # at once, they would need as much memory as the whole
        )
        return self._on_replicas(self._finish_step)

    def _step(self, data):
        """A step without parts, in each replica."""
        return self._apply(*self._gradients(*data))

    def _begin_step(self):
        """Before the parts of a step, in each replica."""
        for total in (*self._parts, self._part_sums):
            total.assign(tf.zeros_like(total))

    def _add_part(self, data, part):
        """Adds up what a part of the batch gives, in each replica."""
        # Not successive rows, but each so many rows one: then a part has the same rows of the global
        # batch, whose statistics BatchNormalization takes, on any number of replicas.
        data = [
            tf.gather(tf.reshape(whole, (-1, self.accumulation, *whole.shape[1:])), part, axis=1)
            for whole in data
        ]
        gradients, sums = self._gradients(*data)
        for total, new in zip((*self._parts, self._part_sums), (*gradients, sums), strict=True):
            total.assign_add(new)
        return sums

    @staticmethod
    def _after(part, done):
        """The next part's number, which there is only when this one is `done`."""
        with tf.control_dependencies(tf.nest.flatten(done, expand_composites=True)):
            return [part + 1]

    def _finish_step(self):
        """After the parts of a step, in each replica."""
        # The identity is on the replica's device, and what is read need not be on any: with several
        # machines of one device each, nothing else says where the sums over replicas are to be.
        gradients = [tf.identity(total) for total in self._parts]
        return self._apply(gradients, tf.identity(self._part_sums))

    def _gradients(self, images, labels):
        """This replica's share of the gradient of the mean loss, and of the sums of the logs."""
        gradients, logits, losses = self._learned(images, labels)
        best = tf.one_hot(tf.argmax(labels, axis=-1), labels.shape[-1])
        return gradients, _sums(logits, losses, best, tf.ones_like(losses))

    def _learned(self, images, labels, **options):
        """This replica's share of the gradient of the mean loss; each image's logits and loss."""
        replicas = tf.distribute.get_replica_context().num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits = self(images, training=True, **options)
            losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
            share = tf.reduce_mean(losses) / (self.accumulation * replicas)
            share = self.optimizer.scale_loss(share)
        return tape.gradient(share, self.cvt.trainable_weights), logits, losses

    def _apply(self, gradients, sums):
        """Makes a step of the replicas' shares of the gradient; returns the logs."""
        # From here on, all replicas have the same numbers. So clipping, and leaving a step out, are
        # what they are on one device.
        replica = tf.distribute.get_replica_context()
        *gradients, sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, [*gradients, sums])
        norm = tf.linalg.global_norm(gradients) / self.optimizer.scale_loss(1.0)
        if self.clip_norm is not None:
            factor = tf.minimum(1.0, self.clip_norm / (norm + 1e-6))
            gradients = [gradient * factor for gradient in gradients]
        # The rate follows from the steps that count: one that is left out for its gradient does not.
        rate = tf.convert_to_tensor(self.optimizer.learning_rate)
        self.optimizer.apply(gradients, self.cvt.trainable_weights)
        for average, weight in self._averages_and_weights():
            average.assign(weight + self.ema * (average - weight))
        logs = self._update_means(sums)
        last = {"step_loss": sums[0] / sums[-1], "gradient_norm": norm, "learning_rate": rate}
        return {**logs, **last}

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Evaluates a batch: images, right classes, and weights. Each replica has its rows of it.

        The right classes are 1, all others 0; weights are 1, or 0 for what only fills the batch.
        """
        return self._on_replicas(self._evaluate, data)

    def _evaluate(self, data):
        """Evaluates a batch, in each replica."""
        images, right, weights = data
        logits = self(images, training=False)
        labels = tf.math.divide_no_nan(right, tf.reduce_sum(right, axis=-1, keepdims=True))
        losses = tf.nn.softmax_cross_entropy_with_logits(labels, logits)
        sums = _sums(logits, losses, right, weights)
        replica = tf.distribute.get_replica_context()
        return self._update_means(replica.all_reduce(tf.distribute.ReduceOp.SUM, sums))

    def _update_means(self, sums):
        *totals, count = tf.unstack(sums)
        # What the replicas have counted is added up when it is read: each counts its share.
        share = count / tf.distribute.get_replica_context().num_replicas_in_sync
        for mean, total in zip(self.means.values(), totals, strict=True):
            mean.update_state(tf.math.divide_no_nan(total, count), sample_weight=share)
        return {name: mean.result() for name, mean in self.means.items()}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the model's weights are the averages, if there are any."""
        pairs = self._averages_and_weights()
        own = [keras.ops.convert_to_numpy(weight) for _, weight in pairs]
        try:
            for average, weight in pairs:
                weight.assign(keras.ops.convert_to_numpy(average))
            yield
        finally:
            for (_, weight), value in zip(pairs, own, strict=True):
                weight.assign(value)

    def _averages_and_weights(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Empty, if there are no averages."""
        return list(zip(self.averages, self.cvt.weights, strict=False))

    def _on_replicas(self, step: Callable, *arguments: Any) -> Any:
        """What a function of one replica returns on all of them, each with its part of arguments."""
        if self.jit_compile:
            step = tf.function(step, jit_compile=True)
        return self.distribute_strategy.run(step, args=arguments)

    def of_iterator(self, step: Callable) -> Callable:
        """A function that takes a batch from an iterator, and does a step with it."""

        @tf.function
        def function(iterator):
            logs = step(next(iterator))
            # The steps give the same on each replica, so any may answer. Keras would take the mean,
            # which fails with several machines.
            local = self.distribute_strategy.experimental_local_results
            self.traced = True
            return {name: local(value)[0] for name, value in logs.items()}

        return function


def _own_sum(like: Any) -> tf.Variable:
    """A variable in which each replica adds up what is its own."""
    return tf.Variable(
        tf.zeros(like.shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )


def _sums(logits, losses, right, weights):
    """float32 (4,): weighted sums of the loss, of hits among 1 and 5 answers, and of the weights."""
    answers = tf.math.top_k(logits, k=min(5, logits.shape[-1])).indices
    hits = tf.gather(right, answers, batch_dims=1) > 0
    top1, top5 = hits[:, 0], tf.reduce_any(hits, axis=1)
    rows = tf.stack(
        [losses, tf.cast(top1, tf.float32), tf.cast(top5, tf.float32), tf.ones_like(losses)]
    )
    # Not a product: a loss that is no number must not count where the weight is 0.
    return tf.reduce_sum(tf.where(weights > 0, rows * weights, 0.0), axis=1)
