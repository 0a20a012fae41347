"""What `training.prepare` notes beside the record files that it writes."""

from __future__ import annotations

import json

import tensorflow as tf

NAME = "prepare.json"


def noted_sizes(folder: str) -> dict[str, int]:
    """Returns the bytes of each record file in a folder, as far as they were noted, by its name."""
    path = f"{folder}/{NAME}"
    try:
        if not tf.io.gfile.exists(path):
            return {}
        with tf.io.gfile.GFile(path) as file:
            done = json.loads(file.read())["done"]
        return {name: noted["size"] for name, noted in done.items() if "size" in noted}
    except (ValueError, KeyError, TypeError, AttributeError):  # another program's file of that name
        return {}
