"""Jobs on a Ray cluster, by Ray Data: actors that load the model once and write the parts.

What a lost worker or node had under way is simply missing afterwards, and computed in the next pass by
the workers that the cluster has then: see `keras_cvt.inference.parts`. Ray restarts nothing by itself,
since it would wait for ever where what is left of the cluster has no room.

The same workers answer the rows of a `ray.data.Dataset` of one's own:

    work = exported_work("openvino", "cvt13.xml")
    dataset = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    answer_dataset(dataset, work).write_parquet("s3://bucket/answers")
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cvt._messages import one_line
from keras_cvt.inference.answers import answer_batch
from keras_cvt.inference.decoding import available_processors, decode, default_threads, map_ahead
from keras_cvt.inference.jobs import Done, write_chunk
from keras_cvt.inference.parts import Parts
from keras_cvt.inference.tasks import Task, Work, open_files, table

if TYPE_CHECKING:
    import ray.data

# A worker's threads help each other up to about this many.
_MOST_CPUS = 8

# Of a Ray of one's own, beside the model's files.
_OBJECT_STORE = 2**28

# So many passes in which nothing is finished end a job: something kills every worker.
_MOST_FRUITLESS = 3


class RayError(ValueError):
    """The cluster can't do what is asked. The message is one line."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """How many workers there are, and what each of them reserves.

    Attributes:
        count: None for as many as the cluster has room for.
        cpus: Processors of each. None for those of the smallest node, and eight at most.
        gpus: GPUs of each, which may be a share of one.
    """

    count: int | None = None
    cpus: int | None = None
    gpus: float = 0


@contextlib.contextmanager
def connected(address: str | None = None, stored: int = 0) -> Iterator[None]:
    """Connects to a Ray cluster, for as long as the context lasts.

    Args:
        address: Of a cluster, such as "auto" or "ray://head:10001". Defaults to None: a Ray of one's
            own on this machine, which tells nobody that it was used.
        stored: Bytes that a Ray of one's own must be able to store, such as `Work.size`.

    Raises:
        RayError: If there is none.
        ModuleNotFoundError: If Ray is not installed.
    """
    import ray

    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    if ray.is_initialized():
        yield
        return
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(
                # Not one that the environment names: it was not asked for.
                address="local",
                num_cpus=available_processors(),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE + 2 * stored,
                **quiet,
            )
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = "a Ray of its own" if address is None else f"--address {address}"
        raise RayError(f"{where} can't be reached: {one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def resolved(workers: Workers) -> Workers:
    """Fills in what is not given, by what the cluster has now.

    Raises:
        RayError: If not even one worker fits.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= workers.gpus]
    able = [int(node.get("CPU", 0)) for node in with_gpus or nodes if node.get("CPU", 0) >= 1]
    cpus = workers.cpus or min([*able, _MOST_CPUS])
    room = 0
    for node in nodes:
        fits = int(node.get("CPU", 0) // cpus)
        if workers.gpus:
            fits = min(fits, int(node.get("GPU", 0) // workers.gpus))
        room += fits
    if room == 0:
        has = ", ".join(
            f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes
        )
        raise RayError(
            f"No node has room for a worker of {cpus} CPUs and {workers.gpus:g} GPUs. The nodes have "
            f"{has or 'nothing'}."
        )
    # More workers than there is room for would wait for ever.
    return Workers(min(workers.count or room, room), cpus, workers.gpus)


def run(
    work: Work, parts: Parts, batch_size: int, workers: Workers = Workers(), say: Any = print
) -> Iterator[Done]:
    """Computes the chunks that have no part yet, on the cluster that `connected` found.

    Args:
        work: What is asked, and the model.
        parts: Where `Parts.begin` was called; a folder that all nodes see.
        batch_size: Images at a time.
        workers: Defaults to as many as the cluster has room for.
        say: Called with a line where workers were lost.

    Yields:
        A `Done` for each chunk that is written, in whatever order.

    Raises:
        RayError: If the cluster has no room, every worker is lost, or workers write elsewhere.
        OSError: If a part can't be written, as on a full disk.
    """
    import ray

    if parts.is_local:  # a worker may be in another folder
        parts = Parts(os.path.abspath(parts.url))
    model = ray.put(work.files())
    fruitless = 0
    finished: set[int] = set()
    while chunks := parts.unfinished():
        if unseen := finished.intersection(chunks):
            raise RayError(
                f"{parts.url} is not the same folder on all nodes: {len(unseen)} parts that workers "
                "wrote are not in it here. Give a shared folder, or a URL such as s3://."
            )
        fitting = resolved(workers)
        before = len(finished)
        says: list[str] = []
        for done in _pass(work, parts, batch_size, fitting, model, chunks, says):
            finished.add(done.chunk)
            yield done
        lost = len(chunks) - (len(finished) - before)
        fruitless = 0 if len(finished) > before else fruitless + 1
        if fruitless == _MOST_FRUITLESS:
            raise RayError(
                f"Every worker of {fitting.cpus} CPUs is lost before it finishes a chunk, {fruitless} "
                "times in succession: perhaps its memory is too small, or the nodes have different "
                f"versions. {says[0] if says else 'The logs of Ray say more.'}"
            )
        if lost:
            say(f"workers were lost; {lost} of {len(chunks)} chunks are computed again")


def _pass(
    work: Work,
    parts: Parts,
    batch_size: int,
    workers: Workers,
    model: Any,
    chunks: list[int],
    says: list[str],
) -> Iterator[Done]:
    """Has each chunk computed once; yields nothing for those whose worker was lost.

    Args:
        says: Is given what Ray says of that.

    Raises:
        RayError: If a worker fails, rather than being lost.
        OSError: If it can't write.
    """
    import ray

    _quiet_data()
    # A block for each chunk, which lie in the object store: nothing has to be read by a task, which
    # would wait for a processor that the workers have.
    dataset = ray.data.from_items(
        [{"chunk": chunk} for chunk in chunks], override_num_blocks=len(chunks)
    )
    answered = _mapped(
        dataset,
        _ChunkWorker,
        batch_size=1,
        fn_constructor_kwargs={
            "url": parts.url,
            "task": work.task,
            "runtime": work.runtime_name,
            "model": [model],  # in a list, it stays a reference
            "batch_size": batch_size,
            "threads": workers.cpus,
            "environment": _environment(),
            "folder": os.getcwd(),
        },
        **_reserved(dataclasses.replace(workers, count=min(workers.count, len(chunks)))),
    )
    rows = iter(answered.iter_rows())
    while True:
        try:
            row = next(rows, None)
        except ray.exceptions.RayError as error:
            # A node that was lost before its worker had begun ends the whole pass.
            says.append(f"Ray says: {one_line(error)}")
            return
        if row is None:
            return
        if row["failed"]:
            kind = OSError if row["full"] else RayError
            raise kind(row["failed"])
        yield Done(int(row["chunk"]), int(row["images"]), int(row["errors"]))


def _reserved(workers: Workers) -> dict[str, Any]:
    """The options of `map_batches` for workers."""
    from ray.data import ActorPoolStrategy

    return {
        # While one chunk is computed, the next is there.
        "compute": ActorPoolStrategy(size=workers.count, max_tasks_in_flight_per_actor=2),
        "num_cpus": workers.cpus,
        "num_gpus": workers.gpus,
        "max_restarts": 0,
        "max_task_retries": 0,
    }


def _mapped(dataset: ray.data.Dataset, worker: type, **options: Any) -> ray.data.Dataset:
    with warnings.catch_warnings():
        # `max_restarts` has no other place in Ray 2.60; from 2.64 on it will have.
        warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
        return dataset.map_batches(worker, **options)


def _quiet_data() -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # lost workers: what they had is computed in the next pass
    # The traceback of each lost worker, and a plan in several lines for each pass.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _environment() -> dict[str, str]:
    """What the workers' environment needs of this process's."""
    return {name: os.environ[name] for name in ("KERAS_BACKEND",) if name in os.environ}


class _ChunkWorker:
    """An actor that writes the parts of chunks."""

    def __init__(self, url, task, runtime, model, batch_size, threads, environment, folder):
        self._parts, self._task = Parts(url), task
        self._batch_size, self._threads = batch_size, threads
        self._runtime = self._failed = None
        try:
            os.chdir(folder)  # from which the inputs' paths may begin
        except OSError:
            self._failed = (
                f"A node has no folder {folder}: give the command in a folder that all nodes have."
            )
            return
        try:
            self._runtime = _opened(runtime, model, threads, environment)
        except Exception as error:  # a worker that ends here would be taken for one that is lost
            self._failed = f"a worker can't open the model: {one_line(error)}"

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list]:
        """Returns a row about the chunk. What fails is told by the driver, in one line and once."""
        (chunk,) = batch["chunk"]
        row = {"chunk": int(chunk), "images": 0, "errors": 0, "failed": "", "full": False}
        if self._failed is not None:
            return {name: [value] for name, value in (row | {"failed": self._failed}).items()}
        try:
            done = write_chunk(
                self._parts,
                int(chunk),
                self._task,
                self._runtime,
                self._batch_size,
                min(self._threads, default_threads()),
            )
            row.update(images=done.images, errors=done.errors)
        except OSError as error:
            row.update(failed=one_line(error), full=True)
        except Exception as error:
            row["failed"] = f"a worker failed: {type(error).__name__}: {one_line(error)}"
        return {name: [value] for name, value in row.items()}


def _opened(runtime, model, threads, environment):
    import ray

    for name, value in environment.items():
        os.environ.setdefault(name, value)
    (reference,) = model
    return open_files(runtime, ray.get(reference), threads)


def answer_dataset(
    dataset: ray.data.Dataset,
    work: Work,
    *,
    path: str = "path",
    content: str | None = "bytes",
    batch_size: int = 8,
    workers: Workers = Workers(),
) -> ray.data.Dataset:
    """Answers the rows of a dataset of one's own, on the cluster that Ray is connected to.

    Ray Data's own options decide what becomes of lost workers.

    Args:
        dataset: With a column of paths or URLs; of `ray.data.read_binary_files(...,
            include_paths=True)`, the columns fit.
        work: What is asked, and the model.
        path: The column of the paths.
        content: The column of the files' contents. None: the paths are read. Defaults to "bytes".
        batch_size: Images at a time.
        workers: Defaults to as many as the cluster has room for, a processor being left for reading.

    Returns:
        The dataset with the columns of `work.task.schema()` in place of `content`.

    Raises:
        RayError: If no processor would be left to read the dataset, for which it would wait for ever.

    Example:

    ```python
    work = exported_work("openvino", "cvt13.xml")
    dataset = ray.data.read_binary_files("s3://bucket/photos", include_paths=True)
    answer_dataset(dataset, work).write_parquet("s3://bucket/answers")
    ```
    """
    import ray

    fitting = _beside_reading(workers)
    options = _reserved(fitting)
    options = {name: value for name, value in options.items() if not name.startswith("max_")}
    return _mapped(
        dataset,
        _RowWorker,
        batch_size=batch_size,
        batch_format="pyarrow",
        fn_constructor_kwargs={
            "task": work.task,
            "runtime": work.runtime_name,
            "model": [ray.put(work.files())],
            "path": path,
            "content": content,
            "batch_size": batch_size,
            "threads": fitting.cpus,
            "environment": _environment(),
        },
        **options,
    )


def _beside_reading(workers: Workers) -> Workers:
    """What `resolved` returns, or less, so that a processor is left for the tasks of a dataset."""
    import ray

    processors = int(ray.cluster_resources().get("CPU", 0))
    fitting = resolved(workers)
    if fitting.count * fitting.cpus < processors:
        return fitting
    if workers.cpus is None and fitting.cpus > 1:
        return dataclasses.replace(fitting, cpus=fitting.cpus - 1)
    if fitting.count > 1:
        return dataclasses.replace(fitting, count=fitting.count - 1)
    raise RayError(
        f"The worker takes all {processors} processors, and none is left to read the dataset. A "
        "cluster must have two, or Workers(cpus=...) fewer."
    )


class _RowWorker:
    """An actor that answers batches of rows."""

    def __init__(self, task: Task, runtime, model, path, content, batch_size, threads, environment):
        self._task, self._path, self._content = task, path, content
        self._batch_size, self._threads = batch_size, threads
        self._runtime = _opened(runtime, model, threads, environment)

    def __call__(self, batch):
        sources = batch.column(self._path).to_pylist()
        contents = [None] * len(sources)
        if self._content is not None:
            contents = batch.column(self._content).to_pylist()
        preprocessing = self._task.preprocessing
        pictures = map_ahead(
            lambda pair: decode(pair[0], preprocessing, pair[1]),
            zip(sources, contents, strict=True),
            min(self._threads, default_threads()),
            len(sources),
        )
        answered = table(self._task, answer_batch(list(pictures), self._runtime, self._batch_size))
        kept = [n for n in batch.column_names if n not in (self._content, *answered.column_names)]
        for name in kept:
            answered = answered.append_column(name, batch.column(name))
        return answered
