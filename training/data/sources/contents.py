"""Which images a source has, as far as names tell: to see whether they are the same another time."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Contents:
    """Which images a source has. Nothing is computed before it is asked for.

    Attributes:
        lines: Gives one line for each image file, bytes, in the source's order: CLASS/FILE. For record
            files, a line for whatever tells them apart.
        taken: Gives, for each folder or record file that images are taken from, the numbers of those
            that are taken: int64 (images,).
    """

    lines: Callable[[], Iterable[bytes]]
    taken: Callable[[], dict[str, np.ndarray]]

    def digest(self) -> str:
        """A digest that differs for other images or another order of them."""
        return hashlib.sha256(b"\n".join(self.lines())).hexdigest()

    def shared_with(self, other: Contents) -> int:
        """How many of the images are also among those of another source."""
        here, there = self.taken(), other.taken()
        return sum(np.intersect1d(here[place], there[place]).size for place in {*here} & {*there})


def place(path: str) -> str:
    """A folder or file, under one name however it was given; unchanged if it is not on this machine."""
    return path if "://" in path else os.path.realpath(path)


def file_line(class_name: str, file: bytes) -> bytes:
    """The line of an image file in a class folder."""
    # Even a line's end may be in the name of a file.
    return os.fsencode(class_name) + b"/" + file.replace(b"\n", b"\\n")
