"""The architectures among which a search chooses.

A space is a network, the largest, and for some fields of its blocks the values that they may have. A
candidate is data: the number of the value for each of these choices. Nothing here imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_cvt.architecture import StageConfig, with_changes
from training.config import PAPERS_SPACE, Config, ConfigError

# What can differ between candidates that share weights. The largest network has the first half of
# smaller ones' MLPs in its own; and a convolution at every place has what one at every second gives.
FIELDS = ("stride_kv", "mlp_ratio")

# For each choice, in the order of `Space.choices`, the number of its value.
Candidate = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a block may have.

    Attributes:
        stage, block: Which block.
        field: One of `FIELDS`.
        values: At least two, the largest network's first: the smallest stride, the largest ratio.
    """

    stage: int
    block: int
    field: str
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Space:
    """The architectures among which a search chooses.

    Attributes:
        largest_stages: Of the network whose weights all share.
        choices: All that can differ.
    """

    largest_stages: tuple[StageConfig, ...]
    choices: tuple[Choice, ...]

    @classmethod
    def of(cls, config: Config) -> Space:
        """The space of a run's model.

        Raises:
            ConfigError: If there is nothing to choose from, or no model could be made of it.
        """
        asked = PAPERS_SPACE if config.search.space is None else config.search.space
        try:
            return cls.around(config.model.architecture(), asked)
        except ValueError as error:
            raise ConfigError(f"`search_space` can't be searched. {error}") from None

    @classmethod
    def around(
        cls, stages: Sequence[StageConfig], values: Mapping[str, Mapping[str, Sequence[float]]]
    ) -> Space:
        """The space in which the blocks of some stages have other values.

        Args:
            stages: Give all that is not searched.
            values: As `SearchConfig.space`.

        Raises:
            ValueError: If it is no such space.
        """
        lists = {stage: _checked(stage, fields) for stage, fields in values.items()}
        # Knows the names of stages, and refuses values that no block can have.
        most = max((len(v) for fields in lists.values() for v in fields.values()), default=1)
        networks = [
            with_changes(
                stages,
                {
                    stage: {
                        field: found[min(number, len(found) - 1)] for field, found in fields.items()
                    }
                    for stage, fields in lists.items()
                },
            )
            for number in range(most)
        ]
        largest = networks[0]
        choices = [
            Choice(i, j, field, found)
            for i, stage in enumerate(largest)
            for j in range(stage.depth)
            for field in FIELDS
            for found in (
                lists.get(f"stage{i}", {}).get(field) or lists.get("all", {}).get(field) or (),
            )
            # Linear projections have no stride.
            if len(found) > 1 and not (field == "stride_kv" and stage.projection == "linear")
        ]
        if not choices:
            raise ValueError("No block has more than one value to choose from.")
        return cls(tuple(largest), tuple(choices))

    @property
    def size(self) -> int:
        """The number of candidates."""
        return math.prod(len(choice.values) for choice in self.choices)

    @property
    def largest(self) -> Candidate:
        return (0,) * len(self.choices)

    @property
    def smallest(self) -> Candidate:
        return tuple(len(choice.values) - 1 for choice in self.choices)

    def stages(self, candidate: Sequence[int]) -> list[StageConfig]:
        """A candidate's stages, as `CvT` takes them."""
        values = [
            {field: _per_block(stage, field) for field in FIELDS} for stage in self.largest_stages
        ]
        for choice, number in zip(self.choices, candidate, strict=True):
            values[choice.stage][choice.field][choice.block] = choice.values[number]
        return [
            dataclasses.replace(stage, **{field: _joined(found[field]) for field in FIELDS})
            for stage, found in zip(self.largest_stages, values, strict=True)
        ]

    def tables(self) -> np.ndarray:
        """What the shared network needs to know of each value of each choice.

        Returns:
            int32 (choices, values): of how many places in a row keys and values take one; or how many
            hidden units the MLP has. Choices of fewer values repeat their last.
        """
        most = max(len(choice.values) for choice in self.choices)
        rows = []
        for choice in self.choices:
            if choice.field == "stride_kv":
                row = [int(value // choice.values[0]) for value in choice.values]
            else:
                width = self.largest_stages[choice.stage].embed_dim
                row = [int(width * value) for value in choice.values]
            rows.append(row + row[-1:] * (most - len(row)))
        return np.array(rows, np.int32)

    def random(self, generator: np.random.Generator) -> Candidate:
        """A candidate of which each choice is made by chance."""
        return tuple(int(generator.integers(len(choice.values))) for choice in self.choices)


def _checked(stage: str, fields: Any) -> dict[str, tuple[float, ...]]:
    """The values of each field, the largest network's first."""
    if not isinstance(fields, Mapping):
        raise ValueError(f"{stage} must be fields and lists of their values. Received {fields!r}.")
    found = {}
    for field, values in fields.items():
        if field not in FIELDS:
            raise ValueError(
                f"{stage}: only {' and '.join(FIELDS)} can be searched, not {field!r}."
            )
        numbers = isinstance(values, Sequence) and not isinstance(values, str) and values
        if not numbers or not all(type(value) in (int, float) for value in values):
            raise ValueError(f"{stage}: {field} must have a list of numbers. Received {values!r}.")
        ordered = tuple(sorted(set(values), reverse=field == "mlp_ratio"))
        if field == "stride_kv":
            # StageConfig says what is wrong with other values.
            right = all(type(value) is int and value > 0 for value in ordered)
            if right and any(value % ordered[0] for value in ordered):
                raise ValueError(
                    f"{stage}: strides that share weights must be multiples of the smallest. "
                    f"Received {list(values)}."
                )
        found[field] = ordered
    return found


def _per_block(stage: StageConfig, field: str) -> list[float]:
    value = getattr(stage, field)
    return list(value) if isinstance(value, tuple) else [value] * stage.depth


def _joined(values: list[float]) -> float | tuple[float, ...]:
    """One value for all blocks, if they have the same."""
    return values[0] if len(set(values)) == 1 else tuple(values)
