"""A step that all candidates share (training/search/trainer.py)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cvt
from keras_cvt import StageConfig
from training.search.network import copy_weights
from training.search.space import Space
from training.search.trainer import SharedTrainer

RATE = 0.5


def space() -> Space:
    # Without BatchNorm, a candidate of its own sees in training what the shared network sees.
    stages = [
        StageConfig(8, 2, 1, patch_stride=4, projection="linear"),
        StageConfig(8, 1, 2, projection="linear", class_token=True),
    ]
    return Space.around(stages, {"all": {"mlp_ratio": [1, 2, 4]}})


def built(stages) -> keras.Model:
    return keras_cvt.CvT(
        stages,
        classes=3,
        input_shape=(16, 16, 3),
        classifier_activation=None,
        kernel_initializer="glorot_uniform",
    )


def trainer(teacher: bool, random: int = 2) -> SharedTrainer:
    keras.utils.set_random_seed(3)
    made = SharedTrainer(
        built(space().largest_stages), space=space(), random=random, teacher=teacher, seed=5
    )
    made.compile(keras.optimizers.SGD(RATE), jit_compile=False)
    return made


def batch() -> tuple[tf.Tensor, tf.Tensor]:
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 16, 16, 3)).astype("float32")
    return tf.constant(images), tf.one_hot([0, 1, 2, 1], 3)


def gradients(model, images, targets) -> tuple[list[np.ndarray], tf.Tensor]:
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
    found = tape.gradient(loss, model.trainable_weights)
    return [g.numpy() for g in map(tf.convert_to_tensor, found)], logits


@pytest.mark.parametrize("teacher", [True, False])
def test_a_step_is_the_mean_of_the_candidates_of_their_own(teacher):
    shared = trainer(teacher)
    images, labels = batch()
    before = [w.numpy() for w in shared.cvt.trainable_weights]
    drawn = [tuple(row) for row in shared._drawn().numpy()]
    expected, logits = gradients(shared.cvt, images, labels)
    targets = tf.nn.softmax(logits) if teacher else labels
    for candidate in (space().smallest, *drawn):
        alone = built(space().stages(candidate))
        copy_weights(shared.cvt, alone)
        for total, part in zip(expected, gradients(alone, images, targets)[0], strict=True):
            total[tuple(slice(size) for size in part.shape)] += part
    logs = shared.train_step((images, labels))
    for old, new, total in zip(before, shared.cvt.trainable_weights, expected, strict=True):
        np.testing.assert_allclose(new.numpy(), old - RATE * total / 4, rtol=1e-4, atol=1e-6)
    assert float(logs["loss"]) == pytest.approx(
        float(tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(labels, logits))), abs=1e-5
    )


def test_each_step_draws_others_and_always_the_same():
    shared = trainer(teacher=True, random=50)
    first = shared._drawn().numpy()
    assert first.shape == (50, 3) and {0, 1, 2} == {*first.ravel()}
    assert np.array_equal(first, trainer(teacher=True, random=50)._drawn().numpy())
    shared.optimizer.iterations.assign(1)
    assert not np.array_equal(first, shared._drawn().numpy())


def test_the_largest_and_the_smallest_alone():
    shared = trainer(teacher=True, random=0)
    assert shared._drawn().shape == (0, 3)
    shared.train_step(batch())
