"""ONNX, written by tf2onnx and verified in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tf2onnx

from keras_cvt.export import graph
from keras_cvt.export.classifier import Classifier
from keras_cvt.export.formats import ExportError
from keras_cvt.export.verify import Run
from keras_cvt.inference.exported import KEY, onnx_run

OPSET = 18


def write(model: Classifier, path: Path) -> None:
    """Writes an ONNX file, from `images` to `probabilities`."""
    forward = graph.forward(model)
    proto, _ = tf2onnx.convert.from_function(
        forward,
        input_signature=forward.input_signature,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, model.description.to_json()
    path.write_bytes(proto.SerializeToString())


def _erfc(context: Any, node: Any, name: str, arguments: list) -> None:
    """The exact GELU's operation, which tf2onnx lacks: 1 - Erf."""
    kind = context.get_dtype(node.output[0])
    one = context.make_const(name + "_one", np.ones((), tf2onnx.utils.map_onnx_to_numpy_type(kind)))
    erf = context.make_node("Erf", node.input).output[0]
    shape = context.get_shape(node.output[0])
    context.remove_node(node.name)
    context.make_node(
        "Sub", [one.output[0], erf], outputs=node.output, name=name, dtypes=[kind], shapes=[shape]
    )


def load(path: Path) -> Run:
    """Answers with onnxruntime, on the CPU.

    Raises:
        ExportError: if it does not take the file.
    """
    try:
        return onnx_run(path)
    except Exception as error:  # of onnxruntime's own classes, which have no common name
        raise ExportError(f"onnxruntime does not take the exported file: {error}") from error
