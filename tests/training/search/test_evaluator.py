"""How right candidates are with shared weights (training/search/evaluator.py)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_runs import changed

from keras_cvt import StageConfig
from training import data
from training.engine.model import build_model
from training.search.command import shared_config
from training.search.evaluator import CandidateEvaluator, _calibration_images, _without_dropping
from training.search.network import copy_weights
from training.search.space import Space

STAGES = (StageConfig(8, 2, 1, patch_stride=4, class_token=True, drop_path_rate=0.5),)
CONFIG = changed(
    stages=STAGES,
    dims=(),
    depths=(),
    heads=(),
    drop_path_rate=None,
    search_calibration=3,
    search_space={"all": {"mlp_ratio": [1, 4]}},
    batch_size=64,
)
SPACE = Space.of(CONFIG)
SHARED = shared_config(CONFIG, SPACE)


@pytest.fixture(scope="module")
def weights() -> list[np.ndarray]:
    """All different, so that candidates and calibration make a difference."""
    random = np.random.default_rng(0)
    model = build_model(SHARED, data.load(SHARED))
    return [
        abs(value) + 0.1 if "variance" in weight.path else value
        for weight in model.weights
        for value in [random.normal(0, 0.7, weight.shape)]
    ]


def evaluate(weights, strategy) -> CandidateEvaluator:
    return CandidateEvaluator(SHARED, SPACE, weights, data.load(SHARED), strategy)


def test_as_many_as_the_candidate_of_its_own_with_its_own_statistics(weights):
    images = data.load(SHARED)
    assert (images.train.count, images.validation.count) == (1293, 144)  # of 1437
    evaluated = evaluate(weights, tf.distribute.OneDeviceStrategy("CPU:0"))
    still = _without_dropping(SHARED, SPACE)
    shared = build_model(still, images)
    shared.set_weights(weights)
    validation = list(data.evaluation_batches(SHARED.data, images.validation, data.Damaged(0), 144))
    found = {}
    for candidate in (SPACE.largest, SPACE.smallest, (0, 1), SPACE.largest):
        alone = build_model(still.replace(stages=tuple(SPACE.stages(candidate))), images)
        copy_weights(shared, alone)
        _take_statistics(alone, images)
        ((pixels, targets, _),) = validation
        hits = np.sum(
            alone(pixels, training=False).numpy().argmax(-1) == targets.numpy().argmax(-1)
        )
        counted = evaluated.evaluate(candidate)
        assert (counted.hits, counted.images) == (hits, 144)
        assert found.setdefault(candidate, hits) == hits  # whatever was evaluated before
    assert len({*found.values()}) > 1


def _take_statistics(model: keras.Model, images: data.RunData) -> None:
    """Gives BatchNorm the means of what three batches of training images show."""
    batches = data.training_batches(SHARED, images, data.Damaged(0)).take(3)
    norms = [
        conv.bn
        for layer in model.layers
        if "blocks" in layer.name
        for conv in (layer.attn.conv_proj_q, layer.attn.conv_proj_k, layer.attn.conv_proj_v)
    ]
    seen = []
    for norm in norms:
        norm.momentum = 0.0
    for pixels, _ in batches:
        model(pixels, training=True)
        seen.append([(norm.moving_mean.numpy(), norm.moving_variance.numpy()) for norm in norms])
    for norm, values in zip(norms, zip(*seen, strict=True), strict=True):
        mean, variance = np.mean(values, axis=0)
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(variance)


def test_calibration_shows_the_same_images_again_and_again():
    images = data.load(SHARED)
    part = {"worker": 0, "workers": 1, "replicas": 1}
    shown = _calibration_images(SHARED, images, data.Damaged(0), 16, part).take(6)
    shown = [batch.numpy() for batch in shown]
    assert {batch.shape for batch in shown} == {(16, 16, 16, 1)}
    for first, again in zip(shown[:3], shown[3:], strict=True):
        np.testing.assert_array_equal(first, again)
