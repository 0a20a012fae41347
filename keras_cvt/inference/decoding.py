"""Pictures are read and resized in threads, ahead of the model that computes others meanwhile."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from keras_cvt.images.load import load
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.images.transform import normalize
from keras_cvt.inference import remote

_NAMELESS = "the given bytes: "  # how `load` calls what it is given

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, eq=False)
class Decoded:
    """One picture as the input of a model.

    Attributes:
        source: Its path or URL.
        image: float32 (height, width, channels), normalized. None if it could not be read.
        error: Why not.
    """

    source: str
    image: np.ndarray | None = None
    error: str | None = None


def decode(source: str, preprocessing: Preprocessing, content: Any = None) -> Decoded:
    """Reads one picture; whatever is wrong with it is told, and not raised.

    Args:
        source: Path or URL.
        preprocessing: How a picture becomes the model's input.
        content: What `load` takes instead of the source, such as the bytes of the file. Defaults to
            None: the source is read.
    """
    try:
        if content is None and remote.is_remote(source):
            content = remote.read(source)
        pixels = load(source if content is None else content, preprocessing)
    except (OSError, ValueError) as error:
        said = str(error)
        if said.startswith(_NAMELESS):
            said = f"{source}: {said.removeprefix(_NAMELESS)}"
        return Decoded(source, error=said)
    return Decoded(source, normalize(pixels, preprocessing.mean, preprocessing.std))


def default_threads() -> int:
    """One for each processor that this process may use, and eight at most."""
    return min(8, available_processors())


def available_processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Result]:
    """Does what `map(function, items)` does, in threads, up to `ahead` results ahead of their turn.

    The order is that of the items. What the function raises is raised where its result would be. When
    the iterator is closed, or an exception such as Ctrl-C goes through it, nothing new is begun, and
    nobody waits for what is under way: the threads end with the process.

    Args:
        function: Called in several threads at once.
        items: Asked for in the thread that iterates, `ahead` items before their results.
        threads: How many.
        ahead: How many results may wait, at least 1: so the memory does not grow with the items.
    """
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()

    def work() -> None:
        while (task := tasks.get()) is not None:
            item, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(item))
            except BaseException as error:  # raised where the result is asked for
                future.set_exception(error)
            del task, item, future  # the next task may be long in coming

    for _ in range(threads):
        threading.Thread(target=work, name="decoding", daemon=True).start()
    try:
        for item in items:
            future: concurrent.futures.Future = concurrent.futures.Future()
            tasks.put((item, future))
            waiting.append(future)
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for _ in range(threads):
            tasks.put(None)


@contextlib.contextmanager
def decoded(
    sources: Iterable[str],
    preprocessing: Preprocessing,
    ahead: int,
    threads: int | None = None,
) -> Iterator[Iterator[Decoded]]:
    """Gives an iterator over the pictures of sources, in order, that are decoded ahead in threads.

    Args:
        sources: Paths or URLs.
        preprocessing: How a picture becomes the model's input.
        ahead: How many pictures may be ready before they are asked for.
        threads: Defaults to `default_threads()`.
    """
    pictures = map_ahead(
        lambda source: decode(source, preprocessing),
        sources,
        threads or default_threads(),
        max(1, ahead),
    )
    with contextlib.closing(pictures):
        yield pictures
