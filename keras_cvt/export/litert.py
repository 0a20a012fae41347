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
weights and nearly all the multiplications, bear it well (README has the figures).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from tensorflow.lite.python import convert

from keras_cvt.export import graph
from keras_cvt.export.common import Classifier, ExportError, Run

# What "int8" calculates in int8.
INT8_OPERATIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
CALIBRATION_IMAGES = 500  # of more, every second, third ... is taken

LABELS = "labels.txt"


def write(model: Classifier, path: Path, quantize: str, images: Sequence[str]) -> None:
    """Writes a .tflite file, from `images` to `probabilities`, both float32.

    Args:
        quantize: as above.
        images: files to calibrate "int8" by.

    Raises:
        ExportError: for an operation that LiteRT has not built in.
    """
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
            # The converter can leave operations out only in a second step, between the two it
            # usually makes: first the ranges, then what is done with them.
            converter._experimental_calibrate_only = True
        try:
            content = converter.convert()
        except convert.ConverterError as error:
            raise ExportError(_without_kernel(str(error))) from error
    if quantize == "int8":
        known = [name for name in vars(schema.BuiltinOperator) if not name.startswith("_")]
        content = convert.mlir_quantize(
            content,
            denylisted_ops=[name for name in known if name not in INT8_OPERATIONS],
            # A scale for each row of each map would take more room than it gives precision.
            disable_per_channel_for_dense_layers=True,
        )
    path.write_bytes(_finished(model, content))
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(LABELS, "".join(f"{label}\n" for label in model.labels))


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
    described = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    described.description = b"keras_cvt"
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(_metadata(model), np.uint8)
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


def _metadata(model: Classifier) -> bytes:
    """A ModelMetadata message of TensorFlow's metadata_schema.fbs, version 1.0.0.

    The numbers are its fields' places and its enumerations' values. The package that has the schema as
    Python code is no longer maintained, and can't be installed beside today's protobuf and numpy.
    """
    builder = flatbuffers.Builder()

    def table(offsets: dict[int, int], numbers: dict[int, int] | None = None) -> int:
        builder.StartObject(1 + max([*offsets, *(numbers or {}), 0]))
        for place, offset in offsets.items():
            builder.PrependUOffsetTRelativeSlot(place, offset, 0)
        for place, number in (numbers or {}).items():
            builder.PrependUint8Slot(place, number, 0)
        return builder.EndObject()

    def vector(offsets: list[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def floats(values: list[float]) -> int:
        return builder.CreateNumpyVector(np.array(values, np.float32))

    text = builder.CreateString
    # Of pixels from 0 to 255, as Android has them.
    mean, std = ([255 * x for x in values] for values in (model.mean, model.std))
    normalization = table({0: floats(mean), 1: floats(std)})
    process = table({1: normalization}, {0: 1})  # NormalizationOptions
    builder.StartObject(2)
    builder.PrependUint32Slot(0, model.image_size[1], 0)
    builder.PrependUint32Slot(1, model.image_size[0], 0)
    size = builder.EndObject()
    picture = table({1: size}, {0: 1 if len(mean) == 3 else 2})  # RGB or grey
    content = table({1: picture}, {0: 2})  # ImageProperties
    stats = table(
        {
            0: floats([(1 - m) / s for m, s in zip(model.mean, model.std, strict=True)]),
            1: floats([(0 - m) / s for m, s in zip(model.mean, model.std, strict=True)]),
        }
    )
    images = table(
        {
            0: text("images"),
            1: text("An image, resized, cropped and normalized as in training."),
            3: content,
            4: vector([process]),
            5: stats,
        }
    )
    labels = table(
        {0: text(LABELS), 1: text("The classes' names, one on each line.")},
        {2: 2},  # TENSOR_AXIS_LABELS
    )
    features = table({1: table({})}, {0: 1})  # FeatureProperties
    probabilities = table(
        {
            0: text("probabilities"),
            1: text("Of the classes."),
            3: features,
            5: table({0: floats([1.0]), 1: floats([0.0])}),
            6: vector([labels]),
        }
    )
    subgraph = table({2: vector([images]), 3: vector([probabilities])})
    metadata = table(
        {
            0: text(model.model.name),
            1: text("CvT, the Convolutional vision Transformer, by keras_cvt."),
            3: vector([subgraph]),
            7: text("1.0.0"),  # the parser that is needed
        }
    )
    builder.Finish(metadata, b"M001")
    return bytes(builder.Output())


def load(path: Path, threads: int | None = None) -> Run:
    """Answers with LiteRT on the CPU, through XNNPACK."""
    interpreter = Interpreter(str(path), num_threads=threads)
    run = interpreter.get_signature_runner("serving_default")
    return lambda images: run(images=images)["probabilities"]
