"""A step of training that all candidates share."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from training.engine.step import Trainer
from training.search.network import SharedNetwork
from training.search.space import Space


class SharedTrainer(Trainer):
    """Trains the network whose weights the candidates of a space share.

    Each step is made of the mean of several gradients (the "sandwich rule" of Yu and Huang 2019, and
    BigNAS): of the largest network, of the smallest, and of random candidates. The largest one learns
    the labels, and the others its answers. Loss and accuracies are the largest one's.

    Args:
        cvt: Model of the space's largest stages.
        *arguments: Of `Trainer`.
        space: What the candidates are.
        random: How many random ones each step trains.
        teacher: Whether the others learn the largest one's answers, instead of the labels.
        seed: Which random ones; together with the step's number it decides.
    """

    def __init__(
        self, cvt: keras.Model, *arguments: Any, space: Space, random: int, teacher: bool, seed: int
    ):
        super().__init__(cvt, *arguments)
        self._network = SharedNetwork(cvt, space)
        self._counts = [len(choice.values) for choice in space.choices]
        self._smallest = space.smallest
        self._random = random
        self._teacher = teacher
        self._seed = seed

    def call(
        self, images: tf.Tensor, candidate: tf.Tensor | None = None, training: bool = False
    ) -> tf.Tensor:
        """float32 logits, of the largest network or of a candidate."""
        if candidate is None:
            return super().call(images, training=training)
        return tf.cast(self._network(images, candidate, training), tf.float32)

    def _learned(self, images, labels):
        gradients, logits, losses = super()._learned(images, labels)
        targets = tf.nn.softmax(tf.stop_gradient(logits)) if self._teacher else labels
        candidates = [tf.constant(self._smallest), *tf.unstack(self._drawn())]
        for candidate in candidates:
            more, _, _ = super()._learned(images, targets, candidate=candidate)
            gradients = [a + b for a, b in zip(gradients, more, strict=True)]
        return [gradient / (len(candidates) + 1) for gradient in gradients], logits, losses

    def _drawn(self) -> tf.Tensor:
        """int32 (random, choices): this step's candidates, the same on all replicas."""
        step = tf.cast(self.optimizer.iterations, tf.int32)
        shares = tf.random.stateless_uniform(
            (self._random, len(self._counts)), seed=tf.stack([self._seed, step])
        )
        return tf.cast(shares * tf.constant(self._counts, tf.float32), tf.int32)
