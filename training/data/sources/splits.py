"""Which images of a source a split takes."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from keras_cvt._messages import one_line
from training import _internal
from training.config import ConfigError

# The splits of a part, where no other is asked for; the first that is there is taken.
_VALIDATION = ("validation", "test")

_SPLITS = {"train": ("train",), "validation": _VALIDATION, "evaluation": _VALIDATION}


def choose(source: str, split: str, labels: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Chooses the rows that a split takes of parts, in their order.

    Args:
        labels: For each part, those of its images: int (images,).
    """
    try:
        slices = _internal.split_slices(split, {name: len(rows) for name, rows in labels.items()})
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"The split {split!r} of {source}: {one_line(error)}") from None
    chosen = [(name, _mixed(labels[name])[rows]) for name, rows in slices]
    if not any(len(rows) for _, rows in chosen):
        raise ConfigError(f"The split {split!r} of {source} has no images.")
    return [(name, np.sort(rows)) for name, rows in chosen]


def usual_split(source: str, part: str, splits: Sequence[str]) -> str:
    """Chooses the split of a part, of those that there are.

    Raises:
        ConfigError: If there is none.
    """
    name = next((name for name in _SPLITS[part] if name in splits), None)
    if name is None:
        there = next(iter(splits))
        advice = f"`train_split={there}[:90%]` and `validation_split={there}[90%:]`"
        if part == "evaluation":
            advice = f"`--split {there}[90%:]`"
        raise ConfigError(
            f"{source} has no {part} images but {', '.join(splits)}. Say which to take, such as "
            f"{advice}."
        )
    return name


def rest_of(split: str) -> str | None:
    """The split with the other images of a part, such as "train[:90%]" of "train[90%:]".

    Returns:
        None where that cannot be read from the split's text.
    """
    found = re.fullmatch(r"(\w+)\[([^:\]]*):([^:\]]*)\]", split)
    if found is None:
        return None
    name, begin, end = found.groups()
    before, after = f"{name}[:{begin}]" if begin else "", f"{name}[{end}:]" if end else ""
    return "+".join(filter(None, (before, after))) or None


def _mixed(labels: np.ndarray) -> np.ndarray:
    """An order of the images in which every stretch has its share of each class; always the same."""
    random = np.random.RandomState(0)  # its numbers are the same in all versions of NumPy
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    shift = np.repeat(random.uniform(size=len(counts)), counts)
    place = (np.arange(len(labels)) - first + shift) / np.repeat(counts, counts)
    return by_class[np.argsort(place, kind="stable")]
