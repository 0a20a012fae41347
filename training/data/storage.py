"""Files that can't be read at the moment: waiting for them, and giving up.

Storage that is away for some seconds is nothing that an image could be blamed for. So what can't be
read is tried again, with longer and longer breaks, and only then ends the program. An image is damaged
when its bytes are there, and can't be decoded.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

from keras_cvt._messages import one_line

DELAYS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # seconds, before each new attempt

_Read = TypeVar("_Read")


class StorageError(OSError):
    """A file that can't be read or written, though it may be another time. The message is one line."""

    def __init__(self, message: str):
        super().__init__(errno.EIO, message)

    def __str__(self) -> str:
        return self.strerror  # without the number, which is for programs


def attempts(attempt: Callable[[tf.Tensor], tf.data.Dataset]) -> tf.data.Dataset:
    """Gives what a data set gives, again and again, with a break before each new attempt.

    Whoever has what it needs takes no more, and then there is no break. In a function of `tf.data`,
    also on the servers of a tf.data service.

    Args:
        attempt: Makes the data set, of the number of the attempt: int64 (), from 0.
    """

    def after_break(number: tf.Tensor, delay: tf.Tensor) -> tf.data.Dataset:
        # Repeated, since the operation would wait before the end too.
        numbers = tf.data.Dataset.from_tensors(number).repeat()
        sleeping = tf.raw_ops.SleepDataset(
            input_dataset=tf.data.experimental.to_variant(numbers),
            sleep_microseconds=delay,
            output_types=[tf.int64],
            output_shapes=[[]],
        )
        woken = tf.data.experimental.from_variant(sleeping, numbers.element_spec)
        return woken.take(1).flat_map(attempt)

    delays = [0, *(round(delay * 1e6) for delay in DELAYS)]
    numbered = tf.data.Dataset.from_tensor_slices(tf.constant(delays, tf.int64)).enumerate()
    return numbered.flat_map(after_break)


def until_read(found: tf.data.Dataset) -> tf.data.Dataset:
    """Gives the first element, of several attempts if need be, of which no file is unread.

    Args:
        found: Of one element, a dict. Its "unread" has the names of files that can't be read: string of
            any shape, "" for others.

    Returns:
        One element; after the last attempt, as it is.
    """

    def attempt(number: tf.Tensor) -> tf.data.Dataset:
        def complete(element: dict[str, tf.Tensor]) -> tf.Tensor:
            names = tf.reshape(element["unread"], [-1])
            names = tf.boolean_mask(names, names != "")
            return tf.cond(
                tf.size(names) > 0, lambda: ~say(names[0], number), lambda: tf.constant(True)
            )

        return found.filter(complete)

    return attempts(attempt).concatenate(found).take(1)


def say(name: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Says, after the first attempt, that there will be others; returns True. In a graph."""

    def said() -> tf.Tensor:
        tf.print(tf.strings.join([name, " ", _WAITING]), output_stream=sys.stderr)
        return tf.constant(True)

    return tf.cond(tf.equal(number, 0), said, lambda: tf.constant(True))


_WAITING = f"can't be read. Trying again, for {sum(DELAYS):.0f} s."

_saying = threading.Lock()
_said = -float("inf")  # seconds of the monotonic clock


def read_patiently(name: str, read: Callable[[], _Read]) -> _Read:
    """Calls a function that reads a file, and again after each of `DELAYS` if it can't.

    Raises:
        StorageError: If it never can.
    """
    for delay in (*DELAYS, None):
        try:
            return read()
        except (OSError, tf.errors.OpError) as error:
            if delay is None:
                raise StorageError(f"{name} can't be read: {_reason(error)}") from None
            _say_once(name)
        time.sleep(delay)
    raise AssertionError


def _say_once(name: str) -> None:
    """Says that a file is waited for, once for all of an outage's."""
    global _said
    with _saying:
        recently = time.monotonic() - _said < sum(DELAYS)
        _said = time.monotonic()
    if not recently:
        print(name, _WAITING, file=sys.stderr, flush=True)


def why_unread(path: str | bytes) -> str:
    """Why a file can't be read, to complete "PATH can't be read"."""
    path = os.fsdecode(path)
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            while file.read(2**24):
                pass
    except (OSError, tf.errors.OpError) as error:
        return f": {_reason(error)}"
    return ", or could not be a moment ago."


def _reason(error: OSError | tf.errors.OpError) -> str:
    """What an error says, without the file's name: "No such file or directory."."""
    reason = error.strerror if isinstance(error, OSError) else ""
    reason = " ".join((reason or one_line(error)).split())
    return reason.rpartition("; ")[2].rstrip(".") + "."
