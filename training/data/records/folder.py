"""The images of class folders."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from training.config import ConfigError
from training.data import sources
from training.data.records.part import Part


def read_folder(path: str, output: Path) -> tuple[tuple[str, ...], dict[str, Part]]:
    """Finds the classes and the parts of a folder source, to be written to `output`.

    Raises:
        ConfigError: See `training.data.sources.list_folder`; and if `output` would be taken for one of
            the classes the next time.
    """
    folder = sources.list_folder(path)
    for root, _ in folder.parts.values():
        if output.resolve().is_relative_to(Path(root).resolve()):
            raise ConfigError(
                f"--output must be outside {root}, which has class folders. Received {output}."
            )
    if left_out := folder.say_left_out(folder.parts):
        print(left_out, flush=True)

    def part(name: str) -> Part:
        root, files = folder.parts[name]
        names = np.concatenate(
            [
                np.char.add(os.fsencode(f"{class_name}/"), of_class)
                for class_name, of_class in zip(folder.classes, files, strict=True)
            ]
        )

        def read(index: int) -> bytes:
            return tf.io.read_file(os.fsencode(root) + b"/" + names[index]).numpy()

        labels = folder.labels(name)
        return Part(labels, names, np.zeros((len(labels), 0), np.int64), read)

    parts = {name: part(name) for name in folder.parts if len(folder.labels(name))}
    if not parts:
        raise ConfigError(f"{path} has no images.")
    return folder.classes, parts
