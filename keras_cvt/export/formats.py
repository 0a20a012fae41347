"""The formats that can be written. Nothing here imports Keras or a runtime."""

from __future__ import annotations

import dataclasses


class ExportError(ValueError):
    """A model can't be exported as asked, or what was written is not the same function."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format that can be written.

    Attributes:
        module: The module of `keras_cvt.export` that writes it and runs it, imported when it is
            needed: its packages are large.
        packages: The modules that must be installed for that.
        suffix: The ending of its files; "" for a folder.
    """

    module: str
    packages: tuple[str, ...]
    suffix: str


FORMATS = {
    "savedmodel": Format("saved_model", ("tensorflow",), ""),
    "litert": Format("litert", ("tensorflow", "ai_edge_litert", "flatbuffers"), ".tflite"),
    "onnx": Format("onnx", ("tensorflow", "tf2onnx", "onnx", "onnxruntime"), ".onnx"),
    "openvino": Format("openvino", ("tensorflow", "openvino"), ".xml"),
}

# The largest difference from Keras that is accepted by default, as a share of the largest
# probability. Rounding alone makes less than a tenth of each (docs/export's table). Whether a quantized
# model is accurate enough, only its owner can measure, on images of its own kind: this finds broken
# files.
QUANTIZATIONS = {"none": 1e-4, "float16": 0.02, "dynamic": 0.3, "int8": 0.5}
