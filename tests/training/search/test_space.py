"""The architectures among which a search chooses (training/search/space.py)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from keras_cvt import StageConfig, complexity
from keras_cvt.architecture import VARIANTS
from training import configs
from training.config import ConfigError
from training.search.space import Space

STAGES = (StageConfig(8, 1, 1), StageConfig(16, 2, 2, class_token=True, mlp_ratio=3))


def papers() -> Space:
    return Space.of(configs.load("cvt13_imagenet_224"))


def test_the_papers_space():
    """Section 4.2: for each of the 13 blocks the stride of keys and values, and the MLP's ratio."""
    space = papers()
    assert space.size == 2**26 and len(space.choices) == 26
    largest = [dataclasses.replace(s, stride_kv=1, mlp_ratio=4) for s in VARIANTS["CvT13"]]
    assert space.stages(space.largest) == list(space.largest_stages) == largest
    smallest = [dataclasses.replace(s, stride_kv=2, mlp_ratio=2) for s in VARIANTS["CvT13"]]
    assert space.stages(space.smallest) == smallest


@pytest.mark.parametrize(
    ("stride", "ratio", "parameters", "multiply_adds"),
    # Everything is counted, as `keras-cvt summary` does.
    [(2, 2, 13.78, 3.12), (1, 2, 13.78, 5.20), (2, 4, 20.00, 4.57), (1, 4, 20.00, 6.64)],
)
def test_costs(stride, ratio, parameters, multiply_adds):
    space = papers()
    picks = {"stride_kv": (1, 2).index(stride), "mlp_ratio": (4, 2).index(ratio)}
    cost = complexity(space.stages([picks[choice.field] for choice in space.choices]))
    assert round(cost.parameters / 1e6, 2) == parameters
    assert round(cost.multiply_adds / 1e9, 2) == multiply_adds


@pytest.mark.parametrize(
    ("ratio", "parameters", "multiply_adds"), [(2, 13.66, 2.59), (4, 19.88, 4.03)]
)
def test_the_papers_range_comes_out_when_counted_as_there(ratio, parameters, multiply_adds):
    """Linear maps and patch convolutions alone, at stride 2: what section 4.2 gives the ends of."""
    space = papers()
    picks = {"stride_kv": 1, "mlp_ratio": (4, 2).index(ratio)}
    rows = complexity(space.stages([picks[choice.field] for choice in space.choices])).rows
    convolutions = [row for row in rows if "/conv_proj_" in row.name]
    products = [row for row in rows if row.name.endswith("/attn")]
    left_out = sum(row.multiply_adds for row in (*convolutions, *products))
    found = (sum(row.multiply_adds for row in rows) - left_out) / 1e9
    assert found == pytest.approx(multiply_adds, abs=0.015)
    # Of each channel nine numbers of the kernel, and BatchNorm's two.
    kernels = sum(row.parameters for row in convolutions) * 9 / 11
    found = (sum(row.parameters for row in rows) - kernels) / 1e6
    assert found == pytest.approx(parameters, abs=0.005)


def test_what_a_candidate_is():
    space = Space.around(
        STAGES, {"all": {"stride_kv": [2, 4]}, "stage1": {"mlp_ratio": [0.5, 2, 4]}}
    )
    assert [(c.stage, c.block, c.field, c.values) for c in space.choices] == [
        (0, 0, "stride_kv", (2, 4)),
        (1, 0, "stride_kv", (2, 4)),
        (1, 0, "mlp_ratio", (4, 2, 0.5)),
        (1, 1, "stride_kv", (2, 4)),
        (1, 1, "mlp_ratio", (4, 2, 0.5)),
    ]
    assert space.size == 2 * 2 * 3 * 2 * 3
    assert space.stages((1, 0, 2, 1, 0)) == [
        dataclasses.replace(STAGES[0], stride_kv=4),
        dataclasses.replace(STAGES[1], stride_kv=(2, 4), mlp_ratio=(0.5, 4)),
    ]
    # Of how many places one is taken; how many hidden units there are.
    np.testing.assert_array_equal(
        space.tables(), [[1, 2, 2], [1, 2, 2], [64, 32, 8], [1, 2, 2], [64, 32, 8]]
    )
    drawn = [space.random(np.random.default_rng(seed)) for seed in range(50)]
    assert {*map(len, drawn)} == {5} and {c[2] for c in drawn} == {0, 1, 2}


def test_linear_projections_have_no_stride():
    stages = [StageConfig(8, 1, 1, projection="linear"), StageConfig(8, 1, 1)]
    space = Space.around(stages, {"all": {"stride_kv": [1, 2]}})
    assert [choice.stage for choice in space.choices] == [1]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            '{"stage3": {"mlp_ratio": [2, 4]}}',
            "'stage0', 'stage1', 'stage2', 'all'. Received 'stage3'",
        ),
        ('{"all": {"depth": [1, 2]}}', "only stride_kv and mlp_ratio can be searched, not 'depth'"),
        ('{"all": {"stride_kv": [2, 3]}}', "multiples of the smallest. Received .2, 3."),
        ('{"all": {"stride_kv": [1, 1.5, 2]}}', "`stride_kv` must be an integer.* Received 1.5"),
        ('{"all": {"stride_kv": [0, 1]}}', "`stride_kv` must be an integer of at least 1"),
        ('{"all": {"mlp_ratio": [0, 1]}}', "`mlp_ratio` must be a number above 0"),
        ('{"all": {"mlp_ratio": [0.01, 1]}}', "`hidden_dim` must be an integer of at least 1"),
        ('{"all": {"mlp_ratio": 2}}', "must have a list of numbers. Received 2"),
        ('{"all": {"mlp_ratio": []}}', "must have a list of numbers"),
        ('{"all": {"mlp_ratio": [true, 2]}}', "must have a list of numbers"),
        ('{"all": [2]}', "all must be fields and lists of their values"),
        ('{"all": {"mlp_ratio": [4, 4]}}', "No block has more than one value"),
        ("{}", "No block has more than one value"),
    ],
)
def test_what_can_not_be_searched(space, said):
    config = configs.load("digits", [f"search_space={space}"])
    with pytest.raises(ConfigError, match=f"`search_space` can't be searched. .*{said}"):
        Space.of(config)


@pytest.mark.parametrize("text", ["[1]", "3", "{", '"all"'])
def test_a_space_is_an_object(text):
    with pytest.raises(ConfigError, match="`search_space` must be an object of stages"):
        configs.load("digits", [f"search_space={text}"])
