"""LiteRT files: quantized, with metadata, and read by other programs (export.litert)."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
from export_cases import LABELS, ONE_BLOCK, SIZES, keras_says, pictures, run, small

import keras_cvt
from keras_cvt import export
from keras_cvt.export import litert


@pytest.mark.parametrize("quantize", ("float16", "dynamic", "int8"))
def test_quantized_litert(folder, photos, tmp_path, quantize):
    path = tmp_path / "small.tflite"
    more = ["--calibration", folder / "photos"] if quantize == "int8" else []
    size = SIZES["96x160"]
    options = ["--image-size", "96x160", "--quantize", quantize, *more]
    assert run(folder, "litert", path, *options) == 0
    images = pictures(photos, size)
    answers = np.concatenate([litert.load(path)(image[np.newaxis]) for image in images])
    expected = keras_says(images)
    assert 1e-7 < np.abs(answers - expected).max() < (0.002 if quantize == "float16" else 0.05)
    assert (answers.argmax(-1) == expected.argmax(-1)).all()

    weights = {types[1] for name, types in operations(path) if name in litert.INT8_OPERATIONS}
    assert ("INT8" in weights) == (quantize != "float16")
    if quantize == "int8":
        # What the linear maps read is int8, what a norm reads is float.
        kinds = {operation: inputs[0] for operation, inputs in operations(path)}
        assert {kinds[name] for name in litert.INT8_OPERATIONS} == {"INT8"}
        assert {kinds[name] for name in ("RSQRT", "SQUARED_DIFFERENCE", "SOFTMAX")} == {"FLOAT32"}


def operations(path):
    """(name, types of its inputs) of each operation of a .tflite file."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    codes, types = (
        {number: name for name, number in vars(kind).items() if not name.startswith("_")}
        for kind in (schema.BuiltinOperator, schema.TensorType)
    )
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(path.read_bytes()))
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = codes[model.operatorCodes[operator.opcodeIndex].builtinCode]
            yield code, [types[graph.tensors[i].type] for i in operator.inputs if i >= 0]


def test_litert_metadata(folder, tmp_path):
    """The labels are a zip archive within the file. Of the rest only what it must contain is checked:
    tflite-support 0.4.4, whose schema was seen to read it, can't be installed beside this protobuf."""
    path = tmp_path / "small.tflite"
    model = keras_cvt.with_class_names(small((64, 96), ONE_BLOCK), LABELS)
    export.to_litert(model, path, mean=(0.5, 0.5, 0.25), std=(0.5, 0.5, 1))
    with zipfile.ZipFile(path) as file:
        assert file.read("labels.txt").decode().split() == list(LABELS)
    data = path.read_bytes()
    start = data.index(b"M001") - 4  # the message's identifier comes after its root's offset
    assert np.array([127.5, 127.5, 63.75], "<f4").tobytes() in data[start:]
    assert np.array([127.5, 127.5, 255.0], "<f4").tobytes() in data[start:]
    assert b"labels.txt" in data[start:]


def test_other_programs_read_litert(photos, tmp_path):
    """OpenVINO tells tensors apart by their names, and the schema says where weights may begin."""
    from ai_edge_litert import schema_py_generated as schema
    from openvino import Core

    path = export.to_litert(small((64, 96)), tmp_path / "small.tflite", labels=LABELS).path
    images = pictures(photos[:1], (64, 96))
    compiled = Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled([images])[0], keras_says(images), atol=1e-5)
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    buffers = [model.Buffers(i)._tab for i in range(model.BuffersLength())]
    starts = [table.Vector(table.Offset(4)) for table in buffers if table.Offset(4)]
    assert len(starts) > 20 and not any(start % 16 for start in starts)


def test_litert_names_what_it_has_not_built_in(tmp_path):
    model = small((32, 32), ONE_BLOCK, activation=keras.ops.erfinv)
    with pytest.raises(export.ExportError, match="not built in: Erfinv"):
        export.to_litert(model, tmp_path / "a.tflite", labels=LABELS)
    assert not list(tmp_path.iterdir())
