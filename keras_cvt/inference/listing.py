"""Which images a job is for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

from keras_cvt.images.listing import LeftOut, list_images, shown


@dataclasses.dataclass
class Found:
    """The images to look at.

    Attributes:
        images: Paths and URLs.
        left_out: What is in the folders and is not taken.
        empty: Folders in which nothing can be taken, and why.
    """

    images: list[str] = dataclasses.field(default_factory=list)
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)
    empty: dict[str, str] = dataclasses.field(default_factory=dict)


def find_images(sources: Iterable[str | os.PathLike]) -> Found:
    """Finds images: files and URLs as they are given, and of folders what `list_images` lists.

    A file that is not there is taken too: reading it will say so, and the others go on.
    """
    found = Found()
    for source in map(os.fspath, sources):
        if "://" in source or not os.path.isdir(source):
            found.images.append(source)
            continue
        try:
            inside, left_out = list_images(source)
        except OSError as error:
            found.empty[source] = f"{shown(source)}: the folder cannot be read: {error}"
            continue
        found.left_out.update(left_out)
        found.images += [os.path.join(source, *name.split("/")) for name in inside]
        if not inside:
            why = f": {left_out}" if left_out else ", the folder is empty"
            found.empty[source] = f"{shown(source)}: no images to read{why}"
    return found
