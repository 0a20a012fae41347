"""What is asked of images: their classes, or an embedding; and how the answers are written down.

A task and the files of a model are everything that a worker needs, on whatever machine: see `Work`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cvt._backend import start_quietly
from keras_cvt._files import json_text
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.inference.answers import Answer
from keras_cvt.inference.decoding import available_processors
from keras_cvt.inference.exported import RUNTIMES as EXPORTED
from keras_cvt.inference.exported import open_exported
from keras_cvt.inference.runtimes import Runtime, keras_runtime

if TYPE_CHECKING:
    import keras
    import pyarrow as pa

RUNTIMES = ("keras", *EXPORTED)


@dataclasses.dataclass(frozen=True)
class Predict:
    """The likeliest classes of each image, of answers that are probabilities.

    Attributes:
        preprocessing: How a picture becomes the model's input.
        labels: (id, name) of each class.
        top: How many classes to name.
    """

    preprocessing: Preprocessing
    labels: tuple[tuple[str, str], ...]
    top: int

    def schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema(
            [
                pa.field("path", pa.string(), nullable=False),
                ("ids", pa.list_(pa.string())),
                ("labels", pa.list_(pa.string())),
                ("scores", pa.list_(pa.float32())),
                ("error", pa.string()),
            ]
        )

    def best(self, answer: Answer) -> list[tuple[str, str, float]] | None:
        """(id, name, score) of the likeliest classes, best first; None for an error."""
        if answer.values is None:
            return None
        best = np.argsort(-answer.values, kind="stable")[: self.top]
        return [(*self.labels[c], float(answer.values[c])) for c in best]

    def columns(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The answers by the schema's names, without the paths."""
        best = [self.best(answer) for answer in answers]
        columns: dict[str, Any] = {
            name: [None if rows is None else [row[i] for row in rows] for rows in best]
            for i, name in enumerate(("ids", "labels", "scores"))
        }
        return {**columns, "error": [answer.error for answer in answers]}

    def options(self) -> dict[str, str]:
        """What decides the answers, by name, for comparison."""
        labels = hashlib.sha256(json_text(self.labels).encode()).hexdigest()
        return {"task": "predict", "top": str(self.top), "labels": labels}


@dataclasses.dataclass(frozen=True)
class Embed:
    """An embedding of each image: all that the model answers.

    Attributes:
        preprocessing: How a picture becomes the model's input.
        size: Of an embedding.
        layer: Whose it is, for comparison; "" for what the model's classifier reads.
    """

    preprocessing: Preprocessing
    size: int
    layer: str = ""

    def schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema(
            [
                pa.field("path", pa.string(), nullable=False),
                ("embedding", pa.list_(pa.float32(), self.size)),
                ("error", pa.string()),
            ]
        )

    def columns(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The answers by the schema's names, without the paths."""
        rows = [None if a.values is None else a.values.astype("float32") for a in answers]
        return {"embedding": rows, "error": [answer.error for answer in answers]}

    def options(self) -> dict[str, str]:
        """What decides the answers, by name, for comparison."""
        return {"task": "embed", "layer": self.layer}


Task = Predict | Embed


def table(task: Task, answers: Sequence[Answer]) -> pa.Table:
    """The answers as a table of the task's schema."""
    import pyarrow as pa

    columns = {"path": [text(answer.source) for answer in answers], **task.columns(answers)}
    columns["error"] = [None if e is None else text(e) for e in columns["error"]]
    return pa.table(columns, schema=task.schema())


def text(name: str) -> str:
    """A name as valid Unicode: bytes that are not UTF-8 become `\\udcXX`."""
    return name.encode("utf-8", "backslashreplace").decode()


@dataclasses.dataclass(frozen=True)
class Work:
    """A task and a model for it.

    Attributes:
        task: What is asked.
        runtime_name: One of `RUNTIMES`.
        runtime: The model, ready to compute in this process.
        model: The Keras model of the runtime "keras"; None for others.
        paths: The model's files in other runtimes.
        identity: A digest of the model.
    """

    task: Task
    runtime_name: str
    runtime: Runtime
    model: keras.Model | None = None
    paths: tuple[Path, ...] = ()
    identity: str = ""

    @property
    def size(self) -> int:
        """About how many bytes the files have."""
        if self.model is None:
            return sum(path.stat().st_size for path in self.paths)
        return 4 * self.model.count_params()

    def files(self) -> dict[str, bytes]:
        """The content of the model's files, for `open_files` on another machine."""
        if self.model is None:
            return {path.name: path.read_bytes() for path in self.paths}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            self.model.save(path)
            return {path.name: path.read_bytes()}

    def options(self) -> dict[str, str]:
        """What decides the answers, by name, for comparison."""
        return {
            **self.task.options(),
            "runtime": self.runtime_name,
            "model": self.identity,
            "preprocessing": json_text(dataclasses.asdict(self.task.preprocessing)),
        }


def keras_work(model: keras.Model, task: Task) -> Work:
    """The work of a Keras model with one input and one output."""
    return Work(task, "keras", keras_runtime(model), model=model, identity=_digest(model))


def exported_work(
    runtime: str,
    path: str | os.PathLike[str],
    labels: Sequence[tuple[str, str]] | None = None,
    top: int | None = None,
    threads: int | None = None,
) -> Work:
    """The work of a file that `keras-cvt export` wrote: its classes.

    Args:
        runtime: "onnx", "openvino" or "litert".
        path: The file.
        labels: (id, name) of each class. Defaults to None: the file's own.
        top: How many classes to name. Defaults to 5, or all if they are fewer.
        threads: On which it computes. Defaults to one for each processor; LiteRT by itself takes one
            in all, and OpenVINO one for two hyperthreads.

    Raises:
        ValueError: If the file is none, or has another number of classes.
        OSError: If it is not there.
    """
    exported = open_exported(runtime, Path(path), threads or available_processors())
    own = exported.description.labels
    labels = own if labels is None else tuple(labels)
    if len(labels) != len(own):
        raise ValueError(f"{path} has {len(own)} classes, but there are {len(labels)} labels.")
    task = Predict(exported.description.preprocessing, labels, top or min(5, len(labels)))
    digest = hashlib.sha256()
    for each in exported.paths:
        digest.update(each.read_bytes())
    return Work(task, runtime, exported.runtime, paths=exported.paths, identity=digest.hexdigest())


def open_files(runtime: str, files: dict[str, bytes], threads: int | None = None) -> Runtime:
    """Opens a model from the content of its files: what `Work.files` returns.

    Args:
        runtime: One of `RUNTIMES`.
        files: By their names.
        threads: On which it computes. Defaults to what the runtime takes.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        path = Path(folder) / next(name for name in files if not name.endswith(".bin"))
        if runtime != "keras":
            return open_exported(runtime, path, threads).runtime
        start_quietly()
        import keras

        if threads is not None and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        from keras_cvt._model_files import load_model

        return keras_runtime(load_model(path))


_NAMES = ("name", "keras_history", "input_layers", "output_layers", "build_config")


def _digest(model: keras.Model) -> str:
    """Of a model's layers and weights, whatever the layers are called."""
    import keras

    def nameless(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: nameless(each) for key, each in value.items() if key not in _NAMES}
        return [nameless(each) for each in value] if isinstance(value, (list, tuple)) else value

    config = keras.saving.serialize_keras_object(model)
    digest = hashlib.sha256(repr(nameless(config)).encode())
    for weight in model.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()


def sources_digest(sources: Iterable[str]) -> str:
    """Of paths and URLs and their order."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(os.fsencode(source) + b"\0")
    return digest.hexdigest()
