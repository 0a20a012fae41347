"""Answers images with a SavedModel, in a process in which Keras cannot be imported.

    python -m training.answer_without_keras SAVED_MODEL

Takes batches of images from standard input, and gives the answers to each on standard output, as
`send` and `receive` have them. Shows that the exported model needs TensorFlow alone: importing keras
or keras_cvt fails here, as if they were not installed, before TensorFlow is imported and until the end.
"""

from __future__ import annotations

import importlib
import io
import os
import struct
import sys
from typing import Any, BinaryIO

import numpy as np

ABSENT = ("keras", "keras_cvt", "tf_keras")

_LENGTH = struct.Struct("<Q")


class _Hiding:
    """Finds modules as `finder` does, except those of `ABSENT`, which it does not find at all."""

    def __init__(self, finder: Any):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ABSENT:
            return None
        return self._finder.find_spec(fullname, path, target)


def hide_keras() -> None:
    """Makes this process one in which no module of `ABSENT` is installed."""
    sys.meta_path[:] = [_Hiding(finder) for finder in sys.meta_path]


def main(argv: list[str]) -> int:
    """Returns 0 if the images are answered and no module of `ABSENT` is there, else 1."""
    (saved_model,) = argv
    hide_keras()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    serve = tf.saved_model.load(saved_model).signatures["serving_default"]
    while (images := receive(sys.stdin.buffer)) is not None:
        send(sys.stdout.buffer, serve(images=tf.constant(images))["probabilities"].numpy())

    there = [name for name in ABSENT if name in sys.modules or _can_import(name)]
    if there:
        print(f"These modules should not be there: {', '.join(there)}.", file=sys.stderr)
        return 1
    return 0


def send(stream: BinaryIO, array: np.ndarray) -> None:
    """Writes an array to a pipe."""
    content = io.BytesIO()
    np.save(content, array)
    stream.write(_LENGTH.pack(len(content.getbuffer())))
    stream.write(content.getbuffer())
    stream.flush()


def receive(stream: BinaryIO) -> np.ndarray | None:
    """Reads the next array from a pipe; None if it has ended."""
    beginning = stream.read(_LENGTH.size)
    if len(beginning) < _LENGTH.size:
        return None
    return np.load(io.BytesIO(stream.read(*_LENGTH.unpack(beginning))))


def _can_import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
