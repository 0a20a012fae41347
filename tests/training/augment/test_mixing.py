"""Mixup and CutMix of a batch (augment.mixing).

Draws are keyed: the bounds are what chance alone passes in 999 of 1,000 cases, each time alike.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
from augment_cases import over_numbers
from backend import needs_xla
from scipy import stats

from training import augment
from training.augment import mixing


def test_mixup():
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(6, 4, 5, 3)), tf.float32)
    classes = np.array([0, 3, 3, 1, 2, 0])
    mixed, labels = augment.mix(
        images, tf.one_hot(classes, 5), augment.key(0, 1), cutmix=0.0, smoothing=0.1
    )
    # timm's `mixup_target`, and lambda from it.
    targets = np.full((6, 5), 0.1 / 5)
    targets[np.arange(6), classes] += 0.9
    keep = (labels[1, 3].numpy() - 0.02) / 0.9  # its partner is of class 2
    assert 0.001 < keep < 0.999
    np.testing.assert_allclose(labels, keep * targets + (1 - keep) * targets[::-1], atol=1e-6)
    np.testing.assert_allclose(mixed, keep * images + (1 - keep) * images[::-1], atol=1e-5)
    np.testing.assert_allclose(tf.reduce_sum(labels, axis=1), 1, rtol=1e-6)


def test_cutmix():
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(4, 20, 30, 3)), tf.float32)
    boxes = 0
    for number in range(10):
        mixed, labels = augment.mix(
            images, tf.eye(4), augment.key(0, number), mixup=0.0, smoothing=0.1
        )
        from_partner = (mixed == images[::-1]).numpy().all(axis=-1)
        assert (from_partner == from_partner[0]).all()
        assert ((mixed == images).numpy().all(axis=-1) == ~from_partner).all()
        rows, columns = from_partner[0].any(axis=1), from_partner[0].any(axis=0)
        assert from_partner[0].sum() == rows.sum() * columns.sum()
        boxes += bool(from_partner.any())
        keep = 1 - from_partner[0].mean()  # lambda is the real box's, wherever it was cut off
        smooth = np.eye(4) * 0.9 + 0.025
        np.testing.assert_allclose(labels, keep * smooth + (1 - keep) * smooth[::-1], atol=1e-6)
    assert boxes >= 7


def kept(count, **options):
    """Lambda of so many batches, and whether a batch was cut (or else blended)."""
    height, width = 24, 36
    images = tf.concat([tf.zeros((1, height, width, 1)), tf.ones((1, height, width, 1))], axis=0)

    def one(number):
        mixed, labels = augment.mix(
            images, tf.eye(2), augment.key(5, number), smoothing=0.0, **options
        )
        return labels[0, 0], tf.reduce_all((mixed == 0) | (mixed == 1))

    return over_numbers(one, count)


def test_lambda_of_mixup_is_beta():
    keep, cut = kept(3000, cutmix=0.0)
    assert not cut.any()
    assert stats.kstest(keep.astype(float), stats.beta(0.8, 0.8).cdf).pvalue > 0.001


def test_lambda_of_cutmix_is_that_of_the_real_box():
    keep, cut = kept(3000, mixup=0.0)
    assert cut.all()
    random = np.random.default_rng(0)

    def by_the_rule(height=24, width=36):
        cut = math.sqrt(1 - random.beta(1, 1))
        sides = []
        for side in (height, width):
            half, centre = int(side * cut) // 2, random.integers(side)
            sides.append(np.clip(centre + half, 0, side) - np.clip(centre - half, 0, side))
        return 1 - sides[0] * sides[1] / (height * width)

    theirs = np.array([by_the_rule() for _ in range(3000)])
    assert stats.ks_2samp(keep, theirs).pvalue > 0.001


def test_half_of_the_batches_are_cut():
    _, cut = kept(2000)
    assert abs(cut.mean() - 0.5) < 3.3 * 0.5 / math.sqrt(2000)


def test_mixing_nothing_only_smooths():
    images = tf.ones((2, 4, 4, 3))
    for options in ({"mixup": 0.0, "cutmix": 0.0}, {"augmenter": "none"}):
        same, labels = augment.mix(images, tf.eye(2), augment.key(0, 0), **options)
        np.testing.assert_array_equal(same, images)
        np.testing.assert_allclose(labels, [[0.95, 0.05], [0.05, 0.95]], rtol=1e-6)


def test_a_host_without_xla_mixes_the_same(monkeypatch):
    """TensorFlow's TPU wheel has no XLA for the host, which mixes the images."""
    needs_xla()
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(4, 20, 30, 3)), tf.float32)
    for mixup, cutmix in ((0.8, 0.0), (0.0, 1.0)):
        mixed = []
        for compiled in (True, False):
            monkeypatch.setattr(mixing, "xla_on_host", lambda compiled=compiled: compiled)
            key = augment.key(0, 1)
            mixed.append(augment.mix(images, tf.eye(4), key, mixup=mixup, cutmix=cutmix))
        for with_xla, without in zip(*mixed, strict=True):
            np.testing.assert_allclose(without, with_xla, atol=1e-6)
