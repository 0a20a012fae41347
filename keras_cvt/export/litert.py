"""LiteRT (TensorFlow Lite), for phones: built-in operations alone, run by ai_edge_litert.

Quantizations:

    none      float32
    float16   float16 weights, calculated with in float32: half the size
    dynamic   int8 weights of all linear maps and convolutions; activations are quantized as they come,
              row by row
    int8      the same with activations in int8 whose ranges come from calibration images, and all
              the arithmetic between the linear maps in float32

Calculating everything in int8, as the converter has it by default, loses the logits: squares and
variances in the LayerNorms, the probabilities in the attention and the sums along the residual path
cover too many magnitudes for 256 steps. The linear maps and convolutions, which have nearly all the
weights and nearly all the multiplications, bear it well (docs/export has the figures).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import flatbuffers
import numpy as np
import tensorflow as tf

from keras_cvt.export import _internal, graph, litert_metadata
from keras_cvt.export.classifier import Classifier
from keras_cvt.export.formats import ExportError
from keras_cvt.inference.exported import IN_ARCHIVE, litert_run

load = litert_run

# What "int8" calculates in int8.
INT8_OPERATIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
CALIBRATION_IMAGES = 500  # of more, every second, third ... is taken


def write(model: Classifier, path: Path, quantize: str, images: Sequence[str]) -> None:
    """Writes a .tflite file, from `images` to `probabilities`, both float32.

    Args:
        quantize: as above.
        images: files to calibrate "int8" by.

    Raises:
        ExportError: for an operation that LiteRT has not built in.
    """
    others = model.dtypes - {"float32"}
    if others:
        raise ExportError(
            f"LiteRT computes in float32, and layers of this model in {', '.join(sorted(others))}. "
            'Make the model with dtype="float32" and give it these weights (`set_weights`).'
        )
    with graph.saved(model) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default"]
        )
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = lambda: _calibration(model, images)
            _internal.calibrate_only(converter)
        try:
            content = converter.convert()
        except _internal.ConverterError as error:
            raise ExportError(_without_kernel(str(error))) from error
    if quantize == "int8":
        content = _internal.quantize(content, INT8_OPERATIONS)
    path.write_bytes(_finished(model, content))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(litert_metadata.LABELS, "".join(f"{label}\n" for label in model.labels))
        file.writestr(IN_ARCHIVE, model.description.to_json())


def _calibration(model: Classifier, images: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    every = -(-len(images) // CALIBRATION_IMAGES)
    for path in images[::every]:
        yield {"images": np.repeat(model.load(path), model.batch_size or 1, axis=0)}


def _without_kernel(message: str) -> str:
    names = sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message)))
    if not names:
        return f"LiteRT's converter failed: {message.strip().splitlines()[-1]}"
    return (
        f"The model has an operation that LiteRT has not built in: {', '.join(names)}. It would need "
        "the large Flex library on the phone. Most often this is the activation: use another."
    )


def _finished(model: Classifier, content: bytes) -> bytes:
    """The file with the entry by which Android's tools find normalization and labels, and without what
    no runtime needs, a tenth of a small model: long names, and the same vectors again and again."""
    described = _internal.read_model(content)
    described.description = b"keras_cvt"
    buffer, entry = _internal.schema.BufferT(), _internal.schema.MetadataT()
    buffer.data = np.frombuffer(litert_metadata.metadata(model), np.uint8)
    described.buffers.append(buffer)
    entry.name, entry.buffer = "TFLITE_METADATA", len(described.buffers) - 1
    described.metadata = [*(described.metadata or []), entry]
    for subgraph in described.subgraphs:
        for number, tensor in enumerate(subgraph.tensors):
            if number not in (*subgraph.inputs, *subgraph.outputs):
                tensor.name = str(number)
            if tensor.quantization is not None and tensor.quantization.scale is None:
                tensor.quantization = None
    builder = _OnceBuilder()
    builder.Finish(described.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


class _OnceBuilder(flatbuffers.Builder):
    """Writes equal vectors once: many shapes, and the zero points of channels, which are all zero."""

    def __init__(self):
        super().__init__(1024)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x):
        key = x.dtype.str, x.tobytes()
        if key not in self._written:
            # The schema wants weights, which are vectors of bytes, to begin at multiples of 16.
            self.Prep(16 if x.dtype == np.uint8 else x.itemsize, x.nbytes)
            self._written[key] = super().CreateNumpyVector(x)
        return self._written[key]
