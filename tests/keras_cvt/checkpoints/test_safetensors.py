"""The safetensors format: reading and writing."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from checkpoint_files import FOUR, assert_same, tensor, torch_save, values

from keras_cvt import checkpoints
from keras_cvt.checkpoints import CheckpointError, read, write_safetensors
from keras_cvt.checkpoints.source import SAFETENSORS_TAGS

ALL_DTYPES = {
    dtype: np.arange(6).astype(getattr(ml_dtypes, dtype, dtype)).reshape(2, 3)
    for dtype in SAFETENSORS_TAGS
}


def test_safetensors_written_by_the_library(path):
    arrays = {**ALL_DTYPES, "scalar": np.array(1.5), "none": np.empty((0, 2), np.float32)}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    with read(path) as found:
        assert found.format == "safetensors"
        assert_same(found, arrays)


def test_safetensors_read_by_the_library(path):
    arrays = {
        **ALL_DTYPES,
        "scalar": np.array(1.5),
        "none": np.empty((0, 2), np.float32),
        "é": FOUR,
    }
    write_safetensors(path, arrays, {"source": "tests"})
    with safetensors.safe_open(path, framework="numpy") as found:
        assert found.metadata() == {"source": "tests"}
    assert_same(read(path), arrays)


def test_safetensors_byte_for_byte_what_the_library_writes(path):
    arrays = {name: ALL_DTYPES[name] for name in ("bool", "float32", "bfloat16", "int64")}
    arrays |= {"é": FOUR, "a": FOUR, "scalar": np.array(True)}
    write_safetensors(path, arrays, {"source": "tests"})
    assert path.read_bytes() == safetensors.numpy.save(arrays, {"source": "tests"})


def test_write_safetensors_of_arrays_in_any_order_of_memory(path):
    a = values(4, 6)
    arrays = {
        "t": a.T,
        "step": a[::2, ::3],
        "line": a[0, ::2],
        "big": a.astype(">f4"),
        "flip": a[::-1],
    }
    write_safetensors(path, arrays)
    expected = {name: np.ascontiguousarray(array).astype("<f4") for name, array in arrays.items()}
    assert_same(read(path), expected)
    assert_same(safetensors.numpy.load_file(path), expected)


def test_write_safetensors_reads_a_checkpoint_once(path, tmp_path, monkeypatch):
    count = []
    original = checkpoints.Checkpoint._read
    monkeypatch.setattr(
        checkpoints.Checkpoint, "_read", lambda *args: count.append(1) or original(*args)
    )
    write_safetensors(tmp_path / "new", read(torch_save(path, {"a": tensor(FOUR)})))
    assert len(count) == 1


def test_write_safetensors_from_another_checkpoint(path, tmp_path):
    arrays = {"a": values(3, 4), "b": np.arange(3), "c": values(2).astype(ml_dtypes.bfloat16)}
    torch_save(path, {name: tensor(array) for name, array in arrays.items()})
    with read(path) as source:
        write_safetensors(tmp_path / "new", source)
    assert_same(read(tmp_path / "new"), arrays)
    write_safetensors(path, read(path))  # over itself
    assert_same(read(path), arrays)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"a": FOUR, "text": np.array(["x"])}, None, "tensor text: no safetensors dtype"),
        ({"a": FOUR, "z": np.zeros(2, np.complex128)}, None, "tensor z: no safetensors dtype"),
        ({"a": FOUR, "l": [1, 2]}, None, "tensor l is no numpy array"),
        ({"a": FOUR, 3: FOUR}, None, "must be text"),
        ({"__metadata__": FOUR}, None, "__metadata__"),
        ({"a": FOUR}, {"epoch": 3}, "must be text"),
        ({"\ud800": FOUR}, None, "Unicode"),
    ],
)
def test_write_safetensors_refuses_and_leaves_what_was_there(path, tensors, metadata, message):
    path.write_bytes(b"old")
    with pytest.raises(CheckpointError, match=message):
        write_safetensors(path, tensors, metadata)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_write_safetensors_interrupted(path):
    class Dying(dict):
        reads = 0

        def __getitem__(self, name):
            Dying.reads += 1
            if Dying.reads > 3:
                raise KeyboardInterrupt
            return super().__getitem__(name)

    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_safetensors(path, Dying(a=FOUR, b=FOUR))
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_write_safetensors_of_a_mapping_that_changes(path):
    class Changing(dict):
        reads = 0

        def __getitem__(self, name):
            Changing.reads += 1
            return super().__getitem__(name)[: Changing.reads]

    with pytest.raises(CheckpointError, match="changed"):
        write_safetensors(path, Changing(a=FOUR))
    assert not path.exists()


def test_write_safetensors_file_is_as_readable_as_any(path):
    write_safetensors(path, {"a": FOUR})
    other = path.with_name("other")
    other.write_bytes(b"")
    assert path.stat().st_mode == other.stat().st_mode


def header(tensors, data=b"", raw=None):
    raw = json.dumps(tensors).encode() if raw is None else raw
    return struct.pack("<Q", len(raw)) + raw + data


def spec(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header({"a": spec()}, bytes(3)), "not fully covered"),
        (header({"a": spec()}, bytes(5)), "not fully covered"),
        (header({"a": spec(), "b": spec()}, bytes(4)), "invalid offset"),
        (header({"a": spec(), "b": spec(offsets=(2, 6))}, bytes(6)), "invalid offset"),
        (header({"a": spec(), "b": spec(offsets=(8, 12))}, bytes(12)), "invalid offset"),
        (header({"a": spec(offsets=(4, 0))}, bytes(4)), "safetensors"),
        (header({"a": spec(shape=(2,))}, bytes(4)), "safetensors"),
        (header({"a": spec(shape=(-1,))}, bytes(4)), "safetensors"),
        (header({"a": spec(shape=(2**62, 8), offsets=(0, 0))}), "overflow"),
        (header({"a": spec(shape=(2**62, 0, 2**62), offsets=(0, 0))}), "a has an absurd shape"),
        (header({"a": spec(shape=(1,) * 33)}, bytes(4)), "a has an absurd shape"),
        (header({"a": spec(dtype="Q4")}, bytes(4)), "Q4"),
        (header({"a": spec(dtype="F8_E8M0", shape=(4,))}, bytes(4)), "a has the dtype F8_E8M0"),
        (header({"a": {}}, bytes(4)), "safetensors"),
        (header(None, raw=b"{" * 5000), "safetensors"),
        (header(None, raw=b'{"a":' * 5000), "safetensors"),
        (header(None, raw=b"{\xff}"), "safetensors"),
        (
            header(
                None,
                bytes(4),
                b"{%s,%s}" % (2 * (json.dumps({"a": spec()})[1:-1].encode(),)),
            ),
            "twice",
        ),
        (struct.pack("<Q", 2**63) + b"{}", "bytes long"),
        (struct.pack("<Q", 3) + b"{}", "bytes long"),
        (struct.pack("<Q", 20 << 20) + b"{" + bytes(21 << 20), "bytes long"),
    ],
)
def test_safetensors_malformed(path, content, message):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
