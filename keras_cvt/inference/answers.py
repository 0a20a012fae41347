"""The way of every job: sources -> decoding -> runtime -> an answer for each source, in order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.inference.decoding import Decoded, decoded, default_threads
from keras_cvt.inference.runtimes import Runtime


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What a model says of one image, as numbers.

    Attributes:
        source: Path or URL of the image.
        values: float64 (outputs,), all finite. None if the image could not be read, or the model gives
            no finite numbers for it.
        error: Why not.
    """

    source: str
    values: np.ndarray | None = None
    error: str | None = None


def answer_files(
    sources: Iterable[str],
    preprocessing: Preprocessing,
    runtime: Runtime,
    batch_size: int,
    threads: int | None = None,
) -> Iterator[Answer]:
    """Answers images, in order, a batch at a time, while the next ones are decoded in threads.

    Args:
        sources: Paths or URLs.
        preprocessing: How a picture becomes the model's input.
        runtime: What computes a batch.
        batch_size: Images at a time.
        threads: How many decode. Defaults to one for each processor, eight at most.

    Yields:
        An `Answer` for each source. A broken image is told with its error; the others go on.
    """
    threads = threads or default_threads()
    # One batch is ready when the model asks for it; each thread may work on another picture.
    with decoded(sources, preprocessing, batch_size + threads, threads) as pictures:
        while batch := list(itertools.islice(pictures, batch_size)):
            yield from answer_batch(batch, runtime, batch_size)


def answer_batch(batch: list[Decoded], runtime: Runtime, batch_size: int) -> list[Answer]:
    """Answers up to `batch_size` images that are decoded."""
    images = [picture.image for picture in batch if picture.image is not None]
    rows = iter(runtime(np.stack(images), batch_size) if images else ())
    answers = []
    for picture in batch:
        if picture.image is None:
            answers.append(Answer(picture.source, error=picture.error))
            continue
        row = next(rows)
        if np.isfinite(row).all():
            answers.append(Answer(picture.source, row))
        else:
            error = (
                f"{picture.source}: the model's answers are not finite, such as {_not_finite(row)}"
            )
            answers.append(Answer(picture.source, error=error))
    return answers


def _not_finite(row: np.ndarray) -> float:
    return row[~np.isfinite(row)][0]
