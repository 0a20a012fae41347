"""Which candidates are compared (training/search/study.py), with an accuracy that is computed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from keras_cvt import StageConfig, complexity
from training.config import ConfigError
from training.search.space import Space
from training.search.study import CHANCE, EVOLUTION, Cost, Evaluated, Limits, Studies, best, front

SHAPE, CLASSES = (32, 32, 3), 10
STAGES = (StageConfig(8, 2, 1, patch_stride=4), StageConfig(16, 3, 2, class_token=True))


def space() -> Space:
    return Space.around(STAGES, {"all": {"stride_kv": [1, 2], "mlp_ratio": [2, 4]}})


def accuracy(candidate) -> float:
    """Wide MLPs early and short strides late are worth more than they cost."""
    worth = np.array([3, 9, 2, 8, 7, 1, 6, 2, 5, 3])
    return float(worth @ (1 - np.array(candidate))) / worth.sum()


def studies(path, limits=None, seed=0, **options) -> Studies:
    limits = Limits(parameters=12_500) if limits is None else limits
    options = {"space": space(), "population": 10, **options}
    return Studies(path, input_shape=SHAPE, classes=CLASSES, limits=limits, seed=seed, **options)


def everything() -> list[Evaluated]:
    costs = {}
    for candidate in itertools.product(*(range(len(c.values)) for c in space().choices)):
        cost = complexity(space().stages(candidate), SHAPE, CLASSES)
        costs[candidate] = Cost(cost.multiply_adds, cost.parameters)
    return [
        Evaluated(c, accuracy(c), cost) for c, cost in costs.items() if cost.parameters <= 12_500
    ]


def test_evolution_finds_more_than_chance_with_the_same_budget(tmp_path):
    right = best(everything())
    trials = 60
    search = studies(tmp_path / "journal")
    for name in (EVOLUTION, CHANCE):
        found = list(search.search(name, trials, accuracy))
        assert len({one.candidate for one in found}) == len(found) == trials
        assert found == search.evaluated(name)
        for one in found:
            cost = complexity(space().stages(one.candidate), SHAPE, CLASSES)
            assert one.cost == Cost(cost.multiply_adds, cost.parameters)
            assert one.cost.parameters <= 12_500 and one.accuracy == accuracy(one.candidate)
    evolved, random = (best(search.evaluated(name)) for name in (EVOLUTION, CHANCE))
    assert random.accuracy < evolved.accuracy
    assert evolved.accuracy >= right.accuracy - 0.03


@pytest.mark.parametrize("name", [EVOLUTION, CHANCE])
def test_a_search_that_is_stopped_goes_on_as_if_it_had_not_been(tmp_path, name):
    whole = list(studies(tmp_path / "whole").search(name, 30, accuracy))

    class Killed(Exception):
        pass

    evaluated = []

    def killing(candidate):
        if len(evaluated) == 13:
            raise Killed
        evaluated.append(candidate)
        return accuracy(candidate)

    with pytest.raises(Killed):
        list(studies(tmp_path / "parts").search(name, 30, killing))
    assert studies(tmp_path / "parts").evaluated(name) == whole[:13]
    rest = list(studies(tmp_path / "parts").search(name, 30, accuracy))
    assert rest == whole[13:]
    # More may be asked for another time; nothing is evaluated twice.
    more = list(studies(tmp_path / "parts").search(name, 40, accuracy))
    assert len(more) == 10 and not {*map(repr, more)} & {*map(repr, whole)}


def test_a_small_space_is_evaluated_whole(tmp_path):
    small = Space.around(STAGES, {"stage0": {"mlp_ratio": [2, 4]}})
    search = studies(tmp_path / "journal", Limits(), space=small)
    found = list(search.search(CHANCE, 100, lambda candidate: 0.5))
    assert {one.candidate for one in found} == {*itertools.product((0, 1), repeat=2)}


def test_limits_that_leave_nothing(tmp_path):
    with pytest.raises(ConfigError, match="No candidate is within the limits: the smallest has"):
        studies(tmp_path / "journal", Limits(multiply_adds=10))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"limits": Limits(parameters=12_000)}, "other limits .*12500.* there, .*12000.* asked"),
        ({"space": Space.around(STAGES, {"all": {"mlp_ratio": [2, 4]}})}, "other choices"),
        ({"seed": 1}, "other seed .0 there, 1 asked"),
    ],
)
def test_a_journal_of_another_search(tmp_path, changed, said):
    studies(tmp_path / "journal")
    with pytest.raises(ConfigError, match=said):
        studies(tmp_path / "journal", **changed)


def test_front_and_best():
    a, b, c, d, e = (
        Evaluated((i,), accuracy, Cost(*cost))
        for i, (accuracy, cost) in enumerate(
            [(0.9, (9, 9)), (0.8, (5, 9)), (0.8, (5, 8)), (0.7, (6, 7)), (0.9, (8, 9))]
        )
    )
    assert front([a, b, c, d, e]) == [c, d, e]
    assert best([a, b, c, d, e]) == e
    assert front([]) == []
