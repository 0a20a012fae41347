"""Every private name of TensorFlow and LiteRT that the exports need.

None of them is documented, so a new version may move it. `tests/keras_cvt/export/test_internal.py`
fails then, and says what to do. Nothing else in the package uses a private name of these libraries.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from tensorflow.lite.python import convert

__all__ = ["ConverterError", "calibrate_only", "quantize", "read_model", "schema"]

ConverterError = convert.ConverterError
"""What `tf.lite.TFLiteConverter.convert` raises."""


def calibrate_only(converter: tf.lite.TFLiteConverter) -> None:
    """Has a converter find the ranges of all activations, and leave them unquantized.

    The converter can leave operations out only in a second step, `quantize`, between the two that
    it usually takes in one.

    Raises:
        AttributeError: If this TensorFlow has no such switch; setting it would change nothing.
    """
    name = "_experimental_calibrate_only"
    if not hasattr(converter, name):
        raise AttributeError(
            f"tf.lite.TFLiteConverter of TensorFlow {tf.__version__} has no {name}"
        )
    setattr(converter, name, True)


def quantize(content: bytes, operations: Collection[str]) -> bytes:
    """Quantizes only these operations of a calibrated `.tflite` file to int8.

    Args:
        content: Of the file.
        operations: Their names in `schema.BuiltinOperator`.
    """
    known = [name for name in vars(schema.BuiltinOperator) if not name.startswith("_")]
    return convert.mlir_quantize(
        content,
        denylisted_ops=[name for name in known if name not in operations],
        # A scale for each row of each map would take more room than it gives precision.
        disable_per_channel_for_dense_layers=True,
    )


def read_model(content: bytes) -> Any:
    """A `.tflite` file as an object of `schema.ModelT`, which can be changed."""
    return flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
