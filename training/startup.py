"""Starting TensorFlow. For programs only: a library leaves such things alone."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from keras_cvt import _backend
from keras_cvt._commands import UsageError


def quiet_tensorflow() -> None:
    """Imports Keras on TensorFlow, with only what matters said on standard error.

    Raises:
        UsageError: If the environment names another backend.
        ImportError: If TensorFlow is missing, or can't work as it is installed.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise UsageError(
            "the training programs run on TensorFlow: unset KERAS_BACKEND. Received: "
            f"KERAS_BACKEND={backend}."
        )
    _backend.start_quietly()


def make_deterministic() -> None:
    """Makes TensorFlow's operations give the same bits each time, on GPUs too, at some cost there."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


class _PatientOutput:
    """A stream whose writing never fails: what nobody takes any more is dropped."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:  # what it still has is not to be tried again at the end
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextlib.contextmanager
def output_may_close() -> Iterator[None]:
    """Inside, work of hours goes on when the terminal is closed, or the log's disk is full."""
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_PatientOutput, streams)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = streams


def cores() -> int:
    """How many of the processor's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
