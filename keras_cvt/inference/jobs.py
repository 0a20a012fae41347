"""A job whose answers are written as parts, and its local engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from keras_cvt.inference.answers import answer_files
from keras_cvt.inference.parts import Parts
from keras_cvt.inference.runtimes import Runtime
from keras_cvt.inference.tasks import Task, Work, table


@dataclasses.dataclass(frozen=True)
class Done:
    """A chunk that is written.

    Attributes:
        chunk: Its number.
        images: How many inputs it has.
        errors: How many of them have no answer.
    """

    chunk: int
    images: int
    errors: int


def write_chunk(
    parts: Parts,
    chunk: int,
    task: Task,
    runtime: Runtime,
    batch_size: int,
    threads: int | None = None,
) -> Done:
    """Computes a chunk and writes its part."""
    sources = parts.sources(chunk)
    answers = list(answer_files(sources, task.preprocessing, runtime, batch_size, threads))
    parts.write(chunk, table(task, answers))
    return Done(chunk, len(answers), sum(answer.error is not None for answer in answers))


def run_locally(work: Work, parts: Parts, batch_size: int) -> Iterator[Done]:
    """Computes the chunks that have no part yet, in this process.

    Args:
        work: What is asked, and the model.
        parts: Where `Parts.begin` was called.
        batch_size: Images at a time.

    Yields:
        A `Done` for each chunk, as its part is written.
    """
    for chunk in parts.unfinished():
        yield write_chunk(parts, chunk, work.task, work.runtime, batch_size)
