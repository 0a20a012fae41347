"""What `training.prepare` notes beside the record files that it writes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import tensorflow as tf

NAME = "prepare.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What was noted of the record files in a folder, as far as it was.

    Attributes:
        sizes: The bytes of each file, by its name.
        images: How many each file has, by its name.
        classes: The `digest` of the classes.
    """

    sizes: dict[str, int] = dataclasses.field(default_factory=dict)
    images: dict[str, int] = dataclasses.field(default_factory=dict)
    classes: str | None = None


def read(folder: str) -> Manifest:
    """Returns what is noted in a folder."""
    path = f"{folder}/{NAME}"
    try:
        if not tf.io.gfile.exists(path):
            return Manifest()
        with tf.io.gfile.GFile(path) as file:
            state = json.loads(file.read())
        done = {name: noted for name, noted in state["done"].items() if "size" in noted}
        return Manifest(
            {name: noted["size"] for name, noted in done.items()},
            {name: noted["images"] for name, noted in done.items()},
            state["plan"].get("classes"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):  # another program's file of that name
        return Manifest()


def digest(classes: Sequence[str]) -> str:
    """A digest of the names of classes in label order."""
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()
