"""The rows of the paper's Tables 5 to 8 (training/ablations/tables.py)."""

from __future__ import annotations

import math

import pytest

from keras_cvt import complexity
from keras_cvt.architecture import VARIANTS, StageConfig
from training.ablations.tables import TITLES, changed, rows

CVT13 = VARIANTS["CvT13"]


def cost(row):
    return complexity(changed(CVT13, row))


@pytest.mark.parametrize("table", TITLES)
def test_the_last_row_is_the_plain_model(table):
    found = rows(table, CVT13)
    assert changed(CVT13, found[-1]) == list(CVT13)
    assert found[-1].top1 == "81.6"
    assert len({row.name for row in found}) == len({row.letter for row in found}) == len(found)


def test_position_embeddings_of_table_5():
    places = [[stage.position_embedding for stage in changed(CVT13, row)] for row in rows(5, CVT13)]
    assert places == [
        [True, True, True],
        [True, False, False],
        [False, False, True],
        [False, False, False],
    ]
    for row in rows(5, CVT13):
        assert round(cost(row).parameters / 1e6) == int(row.parameters) == 20


def test_parameters_of_table_6_are_the_printed_digits():
    for row in rows(6, CVT13):
        digits = math.floor(cost(row).parameters / 1e5) / 10  # 19.56 is printed as 19.5
        if row.letter == "d":
            digits = round(cost(row).parameters / 1e6, 1)  # and 19.997 as 20.0
        assert digits == float(row.parameters)
    patches = changed(CVT13, rows(6, CVT13)[0])
    assert [(s.patch_size, s.patch_stride, s.patch_padding) for s in patches] == [
        (4, 4, 0),
        (2, 2, 0),
        (2, 2, 0),
    ]


def test_multiply_adds_of_table_7():
    """We count everything: 6.64 and 4.57 G, where the paper prints 6.55 and 4.53."""
    one, two = rows(7, CVT13)
    assert [stage.stride_kv for stage in changed(CVT13, one)] == [1, 1, 1]
    assert round(cost(one).multiply_adds / 1e9, 2) == 6.64
    assert round(cost(two).multiply_adds / 1e9, 2) == 4.57
    for row in (one, two):
        assert cost(row).multiply_adds / 1e9 == pytest.approx(float(row.multiply_adds), rel=0.015)
        assert round(cost(row).parameters / 1e6) == int(row.parameters)


def test_projections_of_table_8():
    found = [[stage.projection for stage in changed(CVT13, row)] for row in rows(8, CVT13)]
    assert found == [
        ["linear", "linear", "linear"],
        ["dw_bn", "linear", "linear"],
        ["dw_bn", "dw_bn", "linear"],
        ["dw_bn", "dw_bn", "dw_bn"],
    ]
    assert [row.top1 for row in rows(8, CVT13)] == ["80.6", "80.8", "81.0", "81.6"]


@pytest.mark.parametrize("table", TITLES)
def test_models_of_other_forms(table):
    """What the model had of its own is put aside; widths, depths and number of stages stay."""
    odd = [
        StageConfig(8, 1, 1, patch_size=3, patch_stride=1, stride_kv=1, position_embedding=True),
        StageConfig(16, 2, 2, projection="linear", mlp_ratio=2, class_token=True),
    ]
    *_, last = rows(table, odd)
    assert changed(odd, last) == [
        StageConfig(8, 1, 1, patch_size=3, patch_stride=1),
        StageConfig(16, 2, 2, mlp_ratio=2, class_token=True),
    ]
    one = rows(table, odd[:1])
    assert len({row.name for row in one}) >= 2
    for row in one:
        changed(odd[:1], row)
