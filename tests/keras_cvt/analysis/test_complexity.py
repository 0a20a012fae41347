"""Parameters and multiply-adds are those of the paper and of the models (analysis.complexity)."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from small_models import TINY, tiny

import keras_cvt
from keras_cvt import complexity
from keras_cvt.architecture import VARIANTS


@pytest.mark.parametrize(
    ("variant", "trainable", "total"),
    [
        ("CvT13", 19_997_480, 20_023_208),
        ("CvT21", 31_622_696, 31_664_552),
        ("CvTW24", 277_196_392, 277_330_792),
    ],
)
def test_parameter_counts(variant, trainable, total):
    before = random.getstate()
    result = complexity(VARIANTS[variant])
    assert random.getstate() == before  # what is made afterwards has the same initial weights
    assert (result.parameters, result.parameters + result.statistics) == (trainable, total)
    if variant == "CvTW24":
        return  # building it takes 1.1 GB, and the counts of the others show that the formula holds
    model = getattr(keras_cvt, variant)(weights=None)
    assert sum(int(np.prod(w.shape)) for w in model.trainable_weights) == trainable
    assert model.count_params() == total
    assert model.name == variant.lower()
    assert model.input_shape == (None, 224, 224, 3)
    assert model.output_shape == (None, 1000)


@pytest.mark.parametrize(
    ("variant", "size", "giga"),
    [
        ("CvT13", 224, 4.57),
        ("CvT21", 224, 7.18),
        ("CvTW24", 224, 60.9),
        ("CvT13", 384, 16.27),
        ("CvT21", 384, 24.85),
        ("CvTW24", 384, 194.2),
    ],
)
def test_multiply_adds(variant, size, giga):
    result = complexity(VARIANTS[variant], (size, size, 3))
    assert float(f"{result.multiply_adds / 1e9:.4g}"[: len(str(giga)) + 1]) == pytest.approx(
        giga, abs=0.5 * 10 ** -len(str(giga).partition(".")[2])
    )


def test_multiply_adds_of_the_ablations():
    stride_1 = [dataclasses.replace(stage, stride_kv=1) for stage in VARIANTS["CvT13"]]
    assert complexity(stride_1).multiply_adds / 1e9 == pytest.approx(6.64, abs=0.005)
    result = complexity(VARIANTS["CvT13"])
    assert result.computed / 1e9 == pytest.approx(4.27, abs=0.005)


@pytest.mark.parametrize(
    ("stages", "parameters"),
    [
        # Table 5: position embedding in every stage, in the first, in the last
        (
            {
                0: {"position_embedding": True},
                1: {"position_embedding": True},
                2: {"position_embedding": True},
            },
            20.42,
        ),
        ({0: {"position_embedding": True}}, 20.20),
        ({2: {"position_embedding": (14, 14)}}, 20.07),
        # Table 6: non-overlapping patches (the paper prints 19.5)
        (
            {
                0: {"patch_size": 4, "patch_stride": 4, "patch_padding": 0},
                1: {"patch_size": 2, "patch_stride": 2, "patch_padding": 0},
                2: {"patch_size": 2, "patch_stride": 2, "patch_padding": 0},
            },
            19.56,
        ),
        # Table 7
        ({0: {"stride_kv": 1}, 1: {"stride_kv": 1}, 2: {"stride_kv": 1}}, 20.00),
        # Table 8: linear projections in all stages
        (
            {0: {"projection": "linear"}, 1: {"projection": "linear"}, 2: {"projection": "linear"}},
            19.86,
        ),
        # CvT-13-NAS: stride 2 and ratio 2 outside, stride 1 and ratio 4 in the middle
        (
            {
                0: {"mlp_ratio": 2},
                1: {"stride_kv": 1},
                2: {"mlp_ratio": [2] * 9 + [4], "stride_kv": [2] * 9 + [1]},
            },
            14.67,
        ),
    ],
)
def test_the_papers_ablations_are_configurations(stages, parameters):
    configs = [
        {**dataclasses.asdict(stage), **stages.get(i, {})}
        for i, stage in enumerate(VARIANTS["CvT13"])
    ]
    assert round(complexity(configs).parameters / 1e6, 2) == parameters  # counted as built


def test_complexity_of_models():
    top = tiny()
    assert complexity(top, (64, 64, 3)) == complexity(TINY, (64, 64, 3), classes=5)
    backbone = tiny(include_top=False)
    result = complexity(backbone, (64, 64, 3))
    assert result.computed == result.multiply_adds
    assert result.parameters + result.statistics == backbone.count_params()
    rows = {row.name: row for row in result.by_layer()}
    for layer in backbone.layers:
        assert layer.count_params() == (
            rows[layer.name].parameters + rows[layer.name].statistics if layer.name in rows else 0
        )
    with pytest.raises(ValueError, match="without None"):
        complexity(backbone)
    pyramid = complexity(keras_cvt.feature_pyramid(top), (64, 64, 3))
    assert pyramid.computed == pyramid.multiply_adds == result.multiply_adds
