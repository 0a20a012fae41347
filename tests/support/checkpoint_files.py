"""Checkpoint files as `torch.save` and Keras write them, made without torch and byte by byte."""

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from programs import CHECKOUT

REFERENCE = Path(os.environ.get("KERAS_CVT_REFERENCE", CHECKOUT.parent / "shared" / "reference"))
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference checkpoints here")

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}


@dataclass(frozen=True)
class Global:
    """Something that the pickle names and the reader would import."""

    module: str
    name: str

    def __call__(self, *args):
        raise AssertionError("only pickled, never called")


@dataclass(eq=False)
class Call:
    """`function(*args)`, at the time of loading."""

    function: Global
    args: tuple


@dataclass(eq=False)
class Storage:
    data: bytes
    kind: Global
    numel: int
    key: str | None = None


def storage(array):
    return Storage(array.tobytes(), Global("torch", STORAGES[array.dtype.name]), array.size)


def tensor(source, offset=0, shape=None, strides=None, extra=()):
    """A tensor on a storage, or a contiguous one with an array's values."""
    if isinstance(source, np.ndarray):
        strides = [s // source.itemsize for s in np.empty(source.shape, source.dtype).strides]
        source, shape = storage(source), source.shape
    args = (source, offset, tuple(shape), tuple(strides), False, OrderedDict(), *extra)
    version = "_v3" if extra and isinstance(extra[0], Global) else "_v2"
    return Call(Global("torch._utils", f"_rebuild_tensor{version}"), args)


def parameter(value):
    return Call(Global("torch._utils", "_rebuild_parameter"), (value, True, OrderedDict()))


class TorchPickler(pickle._Pickler):
    """Writes what `torch.save` would write."""

    def __init__(self, file, protocol):
        super().__init__(file, protocol)
        self.storages = {}

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        if value.key is None:
            value.key = str(len(self.storages))
        self.storages[value.key] = value.data
        return ("storage", value.kind, value.key, "cpu", value.numel)

    def reducer_override(self, value):
        if isinstance(value, Call):
            return value.function, value.args
        return "" if isinstance(value, Global) else NotImplemented

    def save_global(self, value, name=None):
        if not isinstance(value, Global):
            return super().save_global(value, name)
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        return self.memoize(value)


def torch_pickled(value, protocol=2):
    file = io.BytesIO()
    pickler = TorchPickler(file, protocol)
    pickler.dump(value)
    return file.getvalue(), pickler.storages


def write_archive(path, pickled, storages=None, root="archive", members=None, leave_out=()):
    """A torch zip archive around a pickle."""
    content = {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"}
    content |= {f"data/{key}": data for key, data in (storages or {}).items()}
    content |= {".data/serialization_id": b"1234"} | (members or {})
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            if name not in leave_out:
                archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), data)
    return path


def torch_save(path, value, protocol=2, **options):
    return write_archive(path, *torch_pickled(value, protocol), **options)


def values(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(0, 50, shape).astype(dtype)


def assert_same(found, expected):
    """Equal names, shapes, dtypes and bits."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


FOUR = np.zeros(4, np.float32)


def save_layer(parent, group, name, *arrays):
    variables = parent.create_group(f"{group}/vars".lstrip("/"))
    variables.attrs["name"] = name
    for place, array in enumerate(arrays):
        variables[str(place)] = array
