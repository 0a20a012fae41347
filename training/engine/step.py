"""What one step of training and one of evaluation do, on any number of replicas.

Keras' own steps are wrong under some strategies: gradients are clipped before they are summed over the
replicas, accumulation and moving averages fail, and with several machines nothing works at all. So
`Trainer` has its own, which `fit` and `evaluate` call.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

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
        """One step with this replica's part of a batch: images, and labels that sum to 1."""
        replica = tf.distribute.get_replica_context()
        gradients, sums = self._gradients(*data, replicas=replica.num_replicas_in_sync)
        # From here on, all replicas have the same numbers. So clipping, and leaving a step out, are
        # what they are on one device.
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

    def _gradients(self, images, labels, replicas):
        """This replica's share of the gradient of the mean loss, and of the sums of the logs."""
        gradients, sums = None, tf.zeros(4)
        # Not successive rows, but each so many rows one: then a part has the same rows of the global
        # batch, whose statistics BatchNormalization takes, on any number of replicas.
        parts = [
            tf.unstack(tf.reshape(whole, (-1, self.accumulation, *whole.shape[1:])), axis=1)
            for whole in (images, labels)
        ]
        for part_images, part_labels in zip(*parts, strict=True):
            if gradients is not None:
                # One part after the other: at once, they would need as much memory as the whole.
                with tf.control_dependencies(gradients):
                    part_images = tf.identity(part_images)
            with tf.GradientTape() as tape:
                logits = self(part_images, training=True)
                losses = tf.nn.softmax_cross_entropy_with_logits(part_labels, logits)
                share = tf.reduce_mean(losses) / (self.accumulation * replicas)
                share = self.optimizer.scale_loss(share)
            new = tape.gradient(share, self.cvt.trainable_weights)
            if gradients is not None:
                new = [a + b for a, b in zip(gradients, new, strict=True)]
            gradients = new
            best = tf.one_hot(tf.argmax(part_labels, axis=-1), part_labels.shape[-1])
            sums += _sums(logits, losses, best, tf.ones_like(losses))
        return gradients, sums

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Evaluates this replica's part of a batch: images, right classes, and weights.

        The right classes are 1, all others 0; weights are 1, or 0 for what only fills the batch.
        """
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

    def run_on_replicas(self, step: Callable) -> Callable:
        """A function that takes a batch from an iterator, and does a step with it."""
        strategy = self.distribute_strategy
        if self.jit_compile:
            step = tf.function(step, jit_compile=True)

        @tf.function
        def function(iterator):
            logs = strategy.run(step, args=(next(iterator),))
            # The steps give the same on each replica, so any may answer. Keras would take the mean,
            # which fails with several machines.
            return {k: strategy.experimental_local_results(v)[0] for k, v in logs.items()}

        return function


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
