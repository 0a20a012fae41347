"""Classifiers that `keras-cvt export` wrote, run without Keras and TensorFlow.

Such a file says itself how a picture becomes its input and what its classes are called: a `Description`
in JSON, which is

    .onnx       the entry "keras_cvt" of its metadata_props
    .xml        rt_info/keras_cvt
    .tflite     keras_cvt.json in the zip archive within the file, beside labels.txt
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_cvt._files import json_text
from keras_cvt._messages import one_line
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.inference.runtimes import Runtime

KEY = "keras_cvt"
IN_ARCHIVE = "keras_cvt.json"

Run = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Description:
    """What an exported classifier says of itself.

    Attributes:
        preprocessing: How a picture becomes its input.
        labels: (id, name) of each class.
    """

    preprocessing: Preprocessing
    labels: tuple[tuple[str, str], ...]

    def to_json(self) -> str:
        return json_text(
            {"preprocessing": dataclasses.asdict(self.preprocessing), "labels": self.labels}
        )

    @classmethod
    def from_json(cls, text: str) -> Description:
        """Raises ValueError if it is not what `to_json` writes."""
        try:
            said = json.loads(text)
            options = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in said["preprocessing"].items()
            }
            labels = tuple((str(id), str(name)) for id, name in said["labels"])
            return cls(Preprocessing(**options), labels)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"its description by keras_cvt is damaged: {error}") from None


@dataclasses.dataclass(frozen=True)
class Exported:
    """A classifier in its own runtime.

    Attributes:
        runtime: From preprocessed images to probabilities.
        description: Its preprocessing and labels.
        paths: The files that it is made of.
    """

    runtime: Runtime
    description: Description
    paths: tuple[Path, ...]


def open_exported(runtime: str, path: str | Path, threads: int | None = None) -> Exported:
    """Opens a file that `keras-cvt export` wrote.

    Args:
        runtime: One of `RUNTIMES`: "onnx", "openvino" or "litert".
        path: The file.
        threads: On which it computes. Defaults to what the runtime itself takes.

    Raises:
        ValueError: If it is no such file, or was written by a version that did not describe it.
        OSError: If it is not there.
        ModuleNotFoundError: If the runtime is not installed.
    """
    path = Path(path)
    suffix, open_file = RUNTIMES[runtime]
    if path.suffix != suffix:
        raise ValueError(f"A file for the runtime {runtime!r} ends in {suffix}: not {path.name}.")
    paths = (path, path.with_suffix(".bin")) if runtime == "openvino" else (path,)
    for each in paths:
        if not each.is_file():
            raise FileNotFoundError(f"There is no file {each}.")
    try:
        run, batch_size, text = open_file(path, threads)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # each runtime has its own classes, without a common name
        raise ValueError(f"{path} can't be opened by {runtime}: {one_line(error)}") from error
    if text is None:
        raise ValueError(
            f"{path} does not say how pictures become its input: export the model again with this "
            "version of keras-cvt export."
        )
    try:
        description = Description.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return Exported(Runtime(run, batch_size), description, paths)


def openvino_run(path: Path, threads: int | None = None, precision: str = "f32") -> Run:
    """Answers with OpenVINO, on the CPU; `precision` is its hint."""
    import openvino

    return _openvino_run(openvino.Core(), path, threads, precision)


def _openvino_run(core: Any, model: Any, threads: int | None, precision: str) -> Run:
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(model, "CPU", options)
    return lambda images: compiled({"images": images})["probabilities"]


def _open_openvino(path: Path, threads: int | None) -> tuple[Run, int | None, str | None]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    return _openvino_run(core, model, threads, "f32"), None, text


def litert_run(path: Path, threads: int | None = None) -> Run:
    """Answers with LiteRT on the CPU, through XNNPACK."""
    return _litert(path, threads)[0]


def _litert(path: Path, threads: int | None) -> tuple[Run, int]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    run = interpreter.get_signature_runner("serving_default")
    batch_size = int(run.get_input_details()["images"]["shape"][0])
    return lambda images: run(images=images)["probabilities"], batch_size


def _open_litert(path: Path, threads: int | None) -> tuple[Run, int | None, str | None]:
    run, batch_size = _litert(path, threads)
    text = None
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if IN_ARCHIVE in archive.namelist():
                text = archive.read(IN_ARCHIVE).decode()
    return run, batch_size, text


def onnx_run(path: Path, threads: int | None = None) -> Run:
    """Answers with onnxruntime, on the CPU."""
    return _onnx(path, threads)[0]


def _onnx(path: Path, threads: int | None) -> tuple[Run, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0], session


def _open_onnx(path: Path, threads: int | None) -> tuple[Run, int | None, str | None]:
    run, session = _onnx(path, threads)
    return run, None, session.get_modelmeta().custom_metadata_map.get(KEY)


# The ending of each runtime's files, and what opens one: from path and threads to what computes, its
# only batch size or None, and the description's text or None.
RUNTIMES: dict[str, tuple[str, Callable]] = {
    "openvino": (".xml", _open_openvino),
    "litert": (".tflite", _open_litert),
    "onnx": (".onnx", _open_onnx),
}
