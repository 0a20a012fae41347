"""Which candidates are compared, and what is known of them: Optuna's NSGA-II, and chance beside it."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from keras_cvt.analysis.complexity import complexity
from training.config import ConfigError
from training.search.space import Candidate, Space

EVOLUTION, CHANCE = "evolution", "chance"

# So many proposals of candidates that are known, or too large, and the search gives up.
_MOST_IN_VAIN = 10_000


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a candidate may cost at most.

    Attributes:
        multiply_adds: For one image, as `keras_cvt.complexity` counts them. None: any.
        parameters: None: any.
    """

    multiply_adds: float | None = None
    parameters: float | None = None

    def excess(self, cost: Cost) -> dict[str, float]:
        """By how much a cost exceeds each limit, as a share of it; 0 or less within."""
        limits = dataclasses.asdict(self)
        return {
            name: getattr(cost, name) / most - 1
            for name, most in limits.items()
            if most is not None
        }

    def hold(self, cost: Cost) -> bool:
        """Whether a cost is within the limits."""
        return all(excess <= 0 for excess in self.excess(cost).values())


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a candidate costs: see `keras_cvt.complexity`."""

    multiply_adds: int
    parameters: int


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """A candidate that was evaluated.

    Attributes:
        candidate: Which.
        accuracy: The share of the held-out images that it names rightly.
        cost: What it costs.
    """

    candidate: Candidate
    accuracy: float
    cost: Cost


class Studies:
    """Searches a space by evolution and, with as many candidates, by chance.

    What was evaluated is kept in a file. A search that was stopped goes on there, and ends as if it had
    not been stopped: what is tried next follows from the seed and what is known.

    Args:
        path: Optuna's journal. It is made if it is not there.
        space: What the candidates are.
        input_shape: (height, width, channels) of one image.
        classes: Number of classes.
        limits: What the chosen one may cost.
        population: Of the evolution.
        seed: Of all draws.

    Raises:
        ConfigError: If the file has a search of another space, with other limits or another seed; or no
            candidate is within the limits.
    """

    def __init__(
        self,
        path: Path,
        space: Space,
        input_shape: tuple[int, int, int],
        classes: int,
        limits: Limits,
        population: int,
        seed: int,
    ):
        self._space, self._limits, self._seed = space, limits, seed
        self._input_shape, self._classes = input_shape, classes
        self._population = population
        self._choices = {
            f"stage{c.stage}.block{c.block}.{c.field}": CategoricalDistribution(c.values)
            for c in space.choices
        }
        if not limits.hold(self.cost(space.smallest)):
            raise ConfigError(
                f"No candidate is within the limits: the smallest has {self.cost(space.smallest)}."
            )
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = JournalStorage(JournalFileBackend(str(path)))
        self._studies = {name: self._study(storage, name) for name in (EVOLUTION, CHANCE)}

    def _study(self, storage: JournalStorage, name: str) -> optuna.Study:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["maximize", "minimize", "minimize"],
            load_if_exists=True,
        )
        asked = {
            "choices": [
                [choice.stage, choice.block, choice.field, list(choice.values)]
                for choice in self._space.choices
            ],
            "limits": [self._limits.multiply_adds, self._limits.parameters],
            "seed": self._seed,
        }
        there = study.user_attrs
        for key, value in asked.items():
            if key not in there:
                study.set_user_attr(key, value)
            elif there[key] != value:
                raise ConfigError(
                    f"The search that is there has other {key} ({there[key]} there, {value} asked). "
                    "Choose another --run-dir."
                )
        return study

    @functools.cache  # noqa: B019 - a space has few choices, and there is one of these
    def cost(self, candidate: Candidate) -> Cost:
        """What a candidate costs."""
        found = complexity(self._space.stages(candidate), self._input_shape, self._classes)
        return Cost(found.multiply_adds, found.parameters)

    def evaluated(self, name: str) -> list[Evaluated]:
        """What is known of candidates within the limits, in the order in which they were evaluated."""
        found = []
        for trial in self._complete(name):
            candidate = self._candidate(trial.params)
            cost = self.cost(candidate)
            if self._limits.hold(cost):
                found.append(Evaluated(candidate, trial.values[0], cost))
        return list({one.candidate: one for one in found}.values())

    def search(
        self, name: str, trials: int, evaluate: Callable[[Candidate], float]
    ) -> Iterator[Evaluated]:
        """Evaluates candidates until so many are known; gives each as soon as it is.

        Args:
            name: `EVOLUTION` or `CHANCE`.
            trials: How many different candidates within the limits are to be known in the end.
            evaluate: Tells the accuracy of one.
        """
        study = self._studies[name]
        known = {one.candidate: one for one in self.evaluated(name)}
        in_vain = 0
        while len(known) < min(trials, self._space.size) and in_vain < _MOST_IN_VAIN:
            study.sampler = self._sampler(name, len(self._complete(name)))
            trial = study.ask()
            candidate = self._candidate(
                {
                    key: trial.suggest_categorical(key, choices.choices)
                    for key, choices in self._choices.items()
                }
            )
            cost = self.cost(candidate)
            for limit, excess in self._limits.excess(cost).items():
                trial.set_constraint(limit, excess)
            in_question = self._limits.hold(cost) and candidate not in known
            if in_question:
                accuracy = evaluate(candidate)
            else:
                # Beyond the limits, nobody looks at it: one within is better than any beyond.
                accuracy = known[candidate].accuracy if candidate in known else 0.0
            study.tell(trial, [accuracy, cost.multiply_adds, cost.parameters])
            if not in_question:
                in_vain += 1
                continue
            in_vain = 0
            known[candidate] = Evaluated(candidate, accuracy, cost)
            yield known[candidate]

    def _complete(self, name: str) -> list[optuna.trial.FrozenTrial]:
        states = (optuna.trial.TrialState.COMPLETE,)
        return self._studies[name].get_trials(deepcopy=False, states=states)

    def _candidate(self, values: dict[str, Any]) -> Candidate:
        return tuple(choices.choices.index(values[key]) for key, choices in self._choices.items())

    def _sampler(self, name: str, done: int) -> optuna.samplers.BaseSampler:
        """What proposes the next candidate, with draws that follow from how many there were."""
        seed = zlib.crc32(f"{self._seed} {name} {done}".encode())
        if name == CHANCE:
            return optuna.samplers.RandomSampler(seed=seed)
        return _Evolution(self._choices, population_size=self._population, seed=seed)


class _Evolution(optuna.samplers.NSGAIISampler):
    """NSGA-II that is told what can be chosen; to look through all earlier trials takes long."""

    def __init__(self, choices: dict[str, CategoricalDistribution], **options: Any):
        super().__init__(**options)
        self._choices = choices

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return self._choices


def front(evaluated: list[Evaluated]) -> list[Evaluated]:
    """Those than which no other is at least as good in everything: accuracy and both costs.

    Returns:
        The cheapest first.
    """
    points = np.array(
        [(-one.accuracy, one.cost.multiply_adds, one.cost.parameters) for one in evaluated]
    ).reshape(-1, 3)
    kept = [
        one
        for one, point in zip(evaluated, points, strict=True)
        if not ((points <= point).all(axis=1) & (points < point).any(axis=1)).any()
    ]
    return sorted(kept, key=lambda one: (one.cost.multiply_adds, one.cost.parameters))


def best(evaluated: list[Evaluated]) -> Evaluated:
    """The most accurate; of equal ones, the cheapest."""
    return max(
        evaluated, key=lambda one: (one.accuracy, -one.cost.multiply_adds, -one.cost.parameters)
    )
