"""Checkpoint files are made here, byte by byte where need be; torch is not installed in most runs."""

import contextlib
import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import CHECKOUT

from keras_cvt import checkpoints
from keras_cvt.checkpoints import CheckpointError, read, torch_pickle, write_safetensors
from keras_cvt.checkpoints.archive import _MAX_ZIP_DIRECTORY
from keras_cvt.checkpoints.source import SAFETENSORS_TAGS

REFERENCE = Path(os.environ.get("KERAS_CVT_REFERENCE", CHECKOUT.parent / "shared" / "reference"))
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference checkpoints here")

# ---------------------------------------------------------------- torch archives without torch

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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.bin"


def values(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(0, 50, shape).astype(dtype)


def assert_same(found, expected):
    """Equal names, shapes, dtypes and bits."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape, name
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


# ---------------------------------------------------------------- torch: what can be read


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_torch_state_dict(path, protocol):
    arrays = {"a.weight": values(4, 3, 2), "a.bias": values(4, seed=1), "b": values(1, 1)}
    state = OrderedDict((name, tensor(array)) for name, array in arrays.items())
    state._metadata = OrderedDict({"": {"version": 1}, "a": {"version": 2}})
    with read(torch_save(path, state, protocol)) as found:
        assert found.format == "torch"
        assert list(found) == list(arrays)
        assert len(found) == 3
        assert "b" in found
        assert "c" not in found
        assert_same(found, arrays)


@pytest.mark.parametrize("dtype", STORAGES)
def test_torch_dtypes(path, dtype):
    array = values(5, 3).astype(getattr(ml_dtypes, dtype, dtype))
    torch_save(path, {"x": tensor(array)})
    with read(path) as found:
        assert found.info("x") == ((5, 3), array.dtype)
        assert_same(found, {"x": array})


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "float8_e4m3fn", "float32"])
def test_torch_untyped_storage_takes_its_dtype_from_the_tensor(path, dtype):
    array = np.arange(12).astype(getattr(ml_dtypes, dtype, dtype))
    data = array.tobytes()
    untyped = Storage(data, Global("torch.storage", "UntypedStorage"), len(data))
    torch_save(path, {"x": tensor(untyped, 4, (2, 3), (3, 1), (Global("torch", dtype),))})
    assert_same(read(path), {"x": array[4:10].reshape(2, 3)})


def test_torch_views_of_a_shared_storage(path):
    base = values(24)
    shared = storage(base)
    state = {
        "all": tensor(shared, 0, (4, 6), (6, 1)),
        "transposed": tensor(shared, 0, (6, 4), (1, 6)),
        "column": tensor(shared, 2, (4,), (6,)),
        "scalar": tensor(shared, 23, (), ()),
        "empty": tensor(shared, 24, (0, 3), (3, 1)),
        "odd stride": tensor(shared, 5, (1, 2), (2**62, 1)),
    }
    grid = base.reshape(4, 6)
    expected = {
        "all": grid,
        "transposed": grid.T,
        "column": grid[:, 2],
        "scalar": base[23].reshape(()),
        "empty": np.empty((0, 3), np.float32),
        "odd stride": base[None, 5:7],
    }
    found = read(torch_save(path, state))
    assert_same(found, expected)
    for array in found.values():
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned
    found["all"][:] = 0  # a copy: the next reader must not see it
    assert_same(found, expected)


def test_torch_empty_and_scalar_tensors(path):
    arrays = {"steps": np.array(7), "none": np.empty((0, 4), np.float32)}
    assert_same(
        read(torch_save(path, {k: tensor(v) for k, v in arrays.items()})),
        arrays,
    )


def test_torch_parameters(path):
    array = values(2, 2)
    with_state = Call(
        Global("torch._utils", "_rebuild_parameter_with_state"),
        (tensor(array), True, OrderedDict(), {"note": 1}),
    )
    torch_save(path, {"p": parameter(tensor(array)), "q": with_state})
    assert_same(read(path), {"p": array, "q": array})


@pytest.mark.parametrize("wrappers", [("model",), ("state_dict",), ("state_dict", "model")])
def test_torch_wrapped_state_dict(path, wrappers):
    array = values(2, 2)
    value = OrderedDict(w=tensor(array))
    for key in reversed(wrappers):
        value = {
            "epoch": 3,
            "arch": "cvt",
            "best": 0.5,
            "nothing": None,
            "flags": [True, False, (1, 2, 3, 4), -1, 2**70],
            "device": Call(Global("torch", "device"), ("cuda", 0)),
            "size": Call(Global("torch", "Size"), ((1, 2),)),
            "dtype": Global("torch", "float16"),
            "step": tensor(np.array(5)),
            key: value,
            "optimizer": {"state": {0: {"m": tensor(array), ("a", 1): 2}}, "param_groups": [{}]},
        }
    assert_same(read(torch_save(path, value)), {"w": array})


def test_torch_name_of_the_model_is_not_its_state(path):
    # As the official training code saves it: "model" is a string there.
    array = values(2)
    torch_save(path, {"model": "cls_cvt", "state_dict": {"w": tensor(array)}, "perf": 81.5})
    assert_same(read(path), {"w": array})


def test_torch_one_state_under_two_keys(path):
    array = values(2)
    state = {"w": tensor(array)}
    assert_same(read(torch_save(path, {"model": state, "state_dict": state})), {"w": array})
    two = {"model": {"w": tensor(array)}, "state_dict": {"w": tensor(array)}}
    with pytest.raises(CheckpointError, match="several state dicts.*model, state_dict"):
        read(torch_save(path, two))


def test_torch_module_prefix(path):
    a, b = values(2), values(3)
    torch_save(path, {"module.a": tensor(a), "module.module.b": tensor(b)})
    assert_same(read(path), {"a": a, "module.b": b})
    torch_save(path, {"module.a": tensor(a), "b": tensor(b)})
    assert_same(read(path), {"module.a": a, "b": b})


def test_torch_values_that_are_not_tensors_are_left_out(path):
    array = values(2)
    torch_save(path, {"w": tensor(array), "version": 3, "extra": {"deep": [1]}, 5: None})
    assert_same(read(path), {"w": array})


def test_torch_any_root_folder_and_no_notes(path):
    array = values(2)
    old = {"byteorder", "version", ".data/serialization_id"}
    torch_save(path, {"w": tensor(array)}, root="CvT-13 x", leave_out=old)
    assert_same(read(path), {"w": array})


def test_torch_without_checksums(path):
    # torch.serialization.set_crc32_options(False) leaves zeros where the checksums belong.
    array = values(8)
    torch_save(path, {"w": tensor(array)})
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            crc = struct.pack("<L", member.CRC)
            assert data.count(crc) == 2
            data = data.replace(crc, bytes(4))
    path.write_bytes(data)
    assert_same(read(path), {"w": array})


# ---------------------------------------------------------------- torch: what is refused


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor(np.zeros(2)), "holds a tensor"),
        ([tensor(np.zeros(2))], "holds a list"),
        ({}, "no tensors"),
        ({"epoch": 3, "weights": {"w": tensor(np.zeros(2))}}, "no tensors.*epoch, weights"),
        ({"w": tensor(np.zeros(2)), 3: tensor(np.zeros(2))}, "not a string"),
        ({"w": tensor(np.zeros(2), extra=({"conj": True},))}, "conjugated"),
    ],
)
def test_torch_without_a_state_dict(path, value, message):
    with pytest.raises(CheckpointError, match=message):
        read(torch_save(path, value))


FOUR = np.zeros(4, np.float32)


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ((0, (5,), (1,)), "outside"),
        ((1, (4,), (1,)), "outside"),
        ((0, (2, 2), (4, 1)), "outside"),
        ((5, (0,), (1,)), "outside"),
        ((2**63, (1,), (1,)), "outside"),
        ((0, (2, 2), (2**62, 2**62)), "outside"),
        ((0, (2**62,), (0,)), "absurd"),
        ((0, (2**40, 2**40), (1, 1)), "absurd"),
        ((0, (2**62, 0, 2**62), (1, 1, 1)), "absurd"),
        ((0, (10**9,), (0,)), "expanded"),
        ((0, (3, 2), (1, 1)), "expanded"),
        ((-1, (2,), (1,)), "from 0 up"),
        ((0, (-2,), (1,)), "from 0 up"),
        ((0, (2,), (-1,)), "from 0 up"),
        ((0, (2.0,), (1,)), "from 0 up"),
        ((0, (True,), (1,)), "from 0 up"),
        (("0", (2,), (1,)), "from 0 up"),
        ((0, (2,), (1, 1)), "1 sizes and 2 strides"),
        ((0, (1,) * 33, (1,) * 33), "33 sizes"),
    ],
)
def test_torch_impossible_geometry(path, geometry, message):
    torch_save(path, {"fine": tensor(FOUR), "bad": tensor(storage(FOUR), *geometry)})
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    if message in ("outside", "absurd", "expanded"):
        assert "bad" in str(caught.value)


def test_torch_missing_and_wrong_data(path):
    torch_save(path, {"w": tensor(FOUR)}, leave_out={"data/0"})
    with pytest.raises(CheckpointError, match=r"tensor w.*missing"):
        read(path)
    torch_save(path, {"w": tensor(FOUR)}, members={"data/0": bytes(15)})
    with pytest.raises(CheckpointError, match=r"tensor w.*15 bytes, not the 4 x 4"):
        read(path)
    big = Storage(bytes(16), Global("torch", "FloatStorage"), 2**70)
    torch_save(path, {"w": tensor(big, 0, (4,), (1,))})
    with pytest.raises(CheckpointError, match=r"tensor w.*16 bytes"):
        read(path)


def test_torch_byte_order(path):
    torch_save(path, {"w": tensor(FOUR)}, members={"byteorder": b"big"})
    with pytest.raises(CheckpointError, match="byte order is big"):
        read(path)


def test_torch_script(path):
    torch_save(path, {"w": tensor(FOUR)}, members={"constants.pkl": b"x"})
    with pytest.raises(CheckpointError, match="TorchScript"):
        read(path)


def test_torch_untyped_storage_without_dtype(path):
    untyped = Storage(bytes(16), Global("torch.storage", "UntypedStorage"), 16)
    with pytest.raises(CheckpointError, match="no dtype"):
        read(torch_save(path, {"w": tensor(untyped, 0, (4,), (1,))}))


def test_torch_flipped_bit_in_the_data(path):
    torch_save(path, {"good": tensor(values(50)), "bad": tensor(values(60, seed=1))})
    data = bytearray(path.read_bytes())
    data[data.index(values(60, seed=1).tobytes()) + 100] ^= 4
    path.write_bytes(data)
    with read(path) as found:
        assert_same({"good": found["good"]}, {"good": values(50)})
        for _ in range(2):
            with pytest.raises(CheckpointError, match="CRC-32.*tensor bad") as caught:
                found["bad"]
        assert str(path) in str(caught.value)


def test_torch_flipped_bit_outside_the_view(path):
    base = values(1 << 19)
    shared = storage(base)
    torch_save(path, {"head": tensor(shared, 0, (3,), (1,)), "one": tensor(shared, 9, (), ())})
    assert_same(read(path), {"head": base[:3], "one": base[9]})
    data = bytearray(path.read_bytes())
    data[data.index(base.tobytes()) + base.nbytes - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="CRC-32"):
        read(path)["head"]


# ---------------------------------------------------------------- torch: pickles that want to run


def text(value):
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def called(module, name, *args):
    """The instructions for `module.name(*args)`."""
    return f"c{module}\n{name}\n(".encode() + b"".join(args) + b"tR"


def code(marker):
    return f"open({str(marker)!r}, 'w').close()"


def shell(marker):
    return text(f"touch {marker}")


# Name -> (instructions that leave one object on the stack, what the error has to name).
# Those marked with True run under pickle.loads, which shows that they are dangerous.
HOSTILE = {
    "reduce": (lambda m: called("os", "system", shell(m)), "os.system", True),
    "posix": (lambda m: called("posix", "system", shell(m)), "posix.system", True),
    "exec": (lambda m: called("builtins", "exec", text(code(m))), "builtins.exec", True),
    "eval": (lambda m: called("builtins", "eval", text(code(m))), "builtins.eval", True),
    "python 2": (lambda m: called("__builtin__", "eval", text(code(m))), "__builtin__.eval", True),
    "in a dict": (
        lambda m: b"}" + text("x") + called("os", "system", shell(m)) + b"s",
        "os.system",
        True,
    ),
    "as a key": (lambda m: b"}" + called("os", "system", shell(m)) + b"Ns", "os.system", True),
    "getattr": (
        lambda m: b"cbuiltins\ngetattr\n(cos\n__dict__\ntR",
        "builtins.getattr",
        False,
    ),
    "codec": (
        lambda m: called("_codecs", "encode", text("x"), text("rot13")),
        "_codecs.encode",
        False,
    ),
    "import": (lambda m: called("importlib", "import_module", text("os")), "import_module", False),
    "dotted": (
        lambda m: b"\x80\x04" + text("os") + text("path.os.system") + b"\x93",
        "path.os.system",
        False,
    ),
    "never called": (lambda m: b"cos\nsystem\n", "os.system", False),
    "stack global from the memo": (
        lambda m: (
            text("os") + b"q\xf0" + text("system") + b"q\xf1h\xf0h\xf1\x93(" + shell(m) + b"tR"
        ),
        "os.system",
        True,
    ),
    "stack global without names": (lambda m: b"NN\x93", "no name", False),
    "inst": (lambda m: b"(" + shell(m) + b"ios\nsystem\n", "os.system", True),
    "inst of an allowed class": (
        lambda m: b"(icollections\nOrderedDict\n",
        "collections OrderedDict",
        False,
    ),
    "obj": (lambda m: b"(cos\nsystem\n" + shell(m) + b"o", "os.system", True),
    "newobj": (
        lambda m: b"csubprocess\nPopen\n(](" + text("touch") + text(str(m)) + b"et\x81",
        "subprocess.Popen",
        False,
    ),
    "newobj of an allowed class": (lambda m: b"ccollections\nOrderedDict\n)\x81", "NEWOBJ", False),
    "newobj_ex": (lambda m: b"ccollections\nOrderedDict\n)}\x92", "NEWOBJ_EX", False),
    "build with setstate": (
        lambda m: (
            b"ccollections\nOrderedDict\n)R}"
            + text("__setstate__")
            + b"cos\nsystem\nsb"
            + shell(m)
            + b"b"
        ),
        "os.system",
        True,
    ),
    "build with a harmless setstate": (
        lambda m: b"ccollections\nOrderedDict\n)R}" + text("__setstate__") + text("x") + b"sb",
        "__setstate__",
        False,
    ),
    "build with slots": (
        lambda m: b"ccollections\nOrderedDict\n)RN}" + text("x") + b"K\x01s\x86b",
        "not a dict",
        False,
    ),
    "build on a global": (lambda m: b"ctorch\nSize\n}b", "fills a dict", False),
    "ext1": (lambda m: b"\x82\x01", "EXT1 1", False),
    "ext2": (lambda m: b"\x83\x01\x00", "EXT2", False),
    "ext4": (lambda m: b"\x84\x01\x00\x00\x00", "EXT4", False),
    "persistent id as text": (lambda m: b"Pos.system\n", "PERSID os.system", False),
    "persistent id a string": (
        lambda m: text("os.system") + b"Q",
        "persistent id that is a str",
        False,
    ),
    "persistent id a list": (
        lambda m: (
            b"]("
            + text("storage")
            + b"ctorch\nFloatStorage\n"
            + text("0")
            + text("cpu")
            + b"K\x00eQ"
        ),
        "persistent id that is a list",
        False,
    ),
    "persistent id of another kind": (
        lambda m: (
            b"(" + text("module") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x00tQ"
        ),
        "persistent id that is not",
        False,
    ),
    "persistent id with a wrong class": (
        lambda m: b"(" + text("storage") + b"ctorch\nSize\n" + text("0") + text("cpu") + b"K\x00tQ",
        "persistent id that is not",
        False,
    ),
    "nested pickle": (
        lambda m: called("torch.storage", "_load_from_bytes", text("x")),
        "torch.storage._load_from_bytes",
        False,
    ),
    "torch.load": (lambda m: called("torch", "load", text("x")), "torch.load", False),
    "numpy": (
        lambda m: b"cnumpy.core.multiarray\nscalar\n",
        "numpy.core.multiarray.scalar",
        False,
    ),
    "namespace": (lambda m: b"cargparse\nNamespace\n)\x81", "argparse.Namespace", False),
    "a storage class called": (
        lambda m: b"ctorch\nFloatStorage\n)R",
        "calls torch.FloatStorage",
        False,
    ),
    "a string called": (lambda m: text("os.system") + b")R", "calls str", False),
    "a tensor called": (lambda m: b"}}R", "calls dict", False),
    "arguments not a tuple": (lambda m: b"ctorch\nSize\n]R", "calls torch.Size", False),
    "dict with contents": (lambda m: b"ccollections\nOrderedDict\n(]tR", "with arguments", False),
    "control characters": (
        lambda m: b"\x80\x04" + text("o\x1b[2Js") + text("\ud7ff\n") + b"\x93",
        r"o\x1b[2Js",
        False,
    ),
    "text protocol": (lambda m: b"S'x'\n", "STRING", False),
    "dup": (lambda m: b"}2", "DUP", False),
    "set": (lambda m: b"\x8f", "EMPTY_SET", False),
    "bytearray": (lambda m: b"\x96" + struct.pack("<Q", 1) + b"x", "BYTEARRAY8", False),
    "buffer": (lambda m: b"\x97", "NEXT_BUFFER", False),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("nested", [False, True])
def test_hostile_pickle_is_refused_by_name(tmp_path, name, nested):
    make, offender, _ = HOSTILE[name]
    marker = tmp_path / "ran"
    wanted = make(marker)
    if nested:
        # Among tensors, inside a wrapping dict, where a lazy reader would not look.
        array, storages = torch_pickled({"model": {"w": tensor(FOUR)}})
        pickled = b"\x80\x02}" + text("model") + array[2:-1] + b"s" + text("epoch") + wanted + b"s."
    else:
        pickled, storages = b"\x80\x02" + wanted + b".", {}
    path = write_archive(tmp_path / "model.pth", pickled, storages)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert offender in str(caught.value)
    assert str(path) in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", [name for name, (_, _, runs) in HOSTILE.items() if runs])
def test_hostile_pickle_is_dangerous(tmp_path, name):
    # The control: with Python's own reader the same instructions do run.
    marker = tmp_path / "ran"
    with contextlib.suppress(TypeError, pickle.UnpicklingError):
        pickle.loads(b"\x80\x02" + HOSTILE[name][0](marker) + b".")
    assert marker.exists()


def test_harmless_neighbour_of_the_hostile_pickles(tmp_path):
    # The nesting used above is sound: with a harmless object in the place of the hostile one it reads.
    array, storages = torch_pickled({"w": tensor(FOUR)})
    pickled = b"\x80\x02}" + text("model") + array[2:-1] + b"s" + text("epoch") + b"K\x03s."
    assert_same(read(write_archive(tmp_path / "x", pickled, storages)), {"w": FOUR})


def laughs(depth, pair):
    """Nested pairs that share their halves: 2**depth leaves in a few bytes."""
    return b"K\x01" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + pair for i in range(depth))


W = torch_pickled({"w": tensor(FOUR)})[0][2:-1]  # leaves the state dict on the stack

GREEDY = {
    "bytes": (b"\x8e" + struct.pack("<Q", 2**62), None),
    "bytes, a little too long": (b"B" + struct.pack("<I", 2**31), None),
    "text": (b"\x8d" + struct.pack("<Q", 2**62), None),
    "integer": (b"\x8b" + struct.pack("<i", 2**31 - 1), None),
    "negative integer": (b"\x8b" + struct.pack("<i", -1), None),
    "frame": (b"\x95" + struct.pack("<Q", 2**62) + W + b".", "read"),
    "memo index": (W + b"r" + struct.pack("<I", 2**32 - 1) + b".", "read"),
    "text memo index": (W + b"p99999999999\n.", "PUT"),
    "memo never set": (b"j" + struct.pack("<I", 2**32 - 1) + b".", "never remembered"),
    "marks": (b"(" * 90_000 + b".", "empty"),
    "marks and more": (b"(" * 110_000 + b".", "100000 instructions"),
    "dicts": (b"}" * 90_000 + W + b".", "read"),
    "nested lists": (b"]" * 45_000 + b"a" * 44_999 + b".", "holds a list"),
    "nested tuples": (b")" + b"\x85" * 90_000 + b".", "holds a tuple"),
    "nested dicts": ((b"}" + text("model")) * 24_000 + W + b"s" * 24_000 + b".", "no tensors"),
    "own parent": (b"}q\x01" + text("model") + b"h\x01s.", "no tensors"),
    "own parents": (
        b"}q\x01" + b"".join(text(k) + b"h\x01s" for k in torch_pickle._WRAPPERS) + b".",
        "no tensors",
    ),
    "laughing key": (W + laughs(60, b"\x86") + b"Ns.", "read"),
    "laughing sizes": (b"ctorch\nSize\n" + laughs(60, b"\x86") + b"\x85R.", "holds a tuple"),
    "huge tuple often": (
        b"(" + b"K\x01" * 30_000 + b"tq\xff" + b"ctorch\nSize\nh\xff\x85R" * 9000 + W + b".",
        "read",
    ),
    "unhashable key": (b"}]Ns.", "no tensors"),
    "append to a dict": (b"}K\x01a.", "fills a list"),
    "appends to a tuple": (b")(K\x01e.", "fills a list"),
    "item of a list": (b"]" + text("a") + b"K\x01s.", "fills a dict"),
    "items of nothing": (b"(" + text("a") + b"K\x01u.", "fills a dict"),
    "odd items": (b"}(" + text("a") + b"u.", "without a value"),
    "no mark": (b"]e.", "mark is missing"),
    "empty stack": (b"R.", "stack is empty"),
    "nothing at all": (b".", "stack is empty"),
    "no end": (W, None),
    "empty": (b"", None),
    "unknown instruction": (b"\xff.", None),
    "duplicate name": (W + text("w") + b"K\x01s.", "w occurs twice"),
    "long key": (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text("0" * 101)
        + text("cpu")
        + b"K\x04tQ.",
        "persistent id",
    ),
}


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_or_damaged_pickle(name, monkeypatch):
    monkeypatch.setattr(torch_pickle, "_MAX_INSTRUCTIONS", 100_000)
    instructions, expected = GREEDY[name]
    data = b"\x80\x04" + instructions
    tracemalloc.start()
    try:
        if expected == "read":
            assert list(torch_pickle.state_dict(data)) == ["w"]
        else:
            with pytest.raises(ValueError, match=expected):
                torch_pickle.state_dict(data)
        assert tracemalloc.get_traced_memory()[1] < (8 << 20) + 150 * len(data)
    finally:
        tracemalloc.stop()


def test_pickle_too_long(path):
    size = torch_pickle.MAX_BYTES + 1
    with pytest.raises(ValueError, match="at most"):
        torch_pickle.state_dict(bytes(size))
    with pytest.raises(CheckpointError, match="absurdly large"):
        read(write_archive(path, bytes(size)))


def test_names_of_megabytes_are_shown_short():
    name = text("x" * (1 << 20))
    with pytest.raises(ValueError, match="asks for xxx") as caught:
        torch_pickle.state_dict(b"\x80\x04" + name + b"\x94h\x00\x93.")
    assert len(str(caught.value)) < 1000


# ---------------------------------------------------------------- zip archives


def directory_entry(data, name):
    """Where the entry of a member begins in the table of contents of a zip archive."""
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\x01\x02"
    return at


@pytest.fixture
def archive(path):
    """A torch archive with two tensors, and a way to change fields of its table of contents."""
    torch_save(path, {"a": tensor(values(64)), "b": tensor(values(64, seed=1))})

    def patch(name, **fields):
        places = {"flags": ("<H", 8), "method": ("<H", 10), "packed": ("<L", 20)}
        places |= {"size": ("<L", 24), "offset": ("<L", 42)}
        data = bytearray(path.read_bytes())
        for field, number in fields.items():
            form, place = places[field]
            struct.pack_into(form, data, directory_entry(data, name) + place, number)
        path.write_bytes(data)

    return patch


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 1 << 30}, "compressed"),
        ({"size": 1 << 30, "packed": 1 << 30}, "outside"),
        ({"method": 8}, "compressed"),
        ({"method": 99}, "compressed"),
        ({"flags": 1}, "encrypted"),
        ({"offset": 1 << 31}, "outside"),
        ({"offset": 1}, "outside"),
    ],
)
def test_zip_member_that_lies(path, archive, fields, message):
    archive("archive/data/1", **fields)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert "archive/data/1" in str(caught.value)
    assert str(path) in str(caught.value)


def test_zip_members_that_overlap(path, archive):
    data = path.read_bytes()
    (offset,) = struct.unpack_from("<L", data, directory_entry(data, "archive/data/0") + 42)
    archive("archive/data/1", offset=offset)
    with pytest.raises(CheckpointError, match="overlap"):
        read(path)


def test_zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"(" * (64 << 20))
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="compressed"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


def test_zip_with_a_huge_table_of_contents(path):
    size = _MAX_ZIP_DIRECTORY + 1
    fields = (20, 3, 20, 0, *(0,) * 7, 1, *(0,) * 6)  # the 1 is the length of the name
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", *fields) + b"x"
    table = entry * (size // len(entry) + 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, len(table), 4, 0)
    path.write_bytes(b"PK\x03\x04" + table + end)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="table of contents"):
        read(path)
    assert tracemalloc.get_traced_memory()[1] < 2 << 20
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_with_a_name_twice(path):
    torch_save(path, {"w": tensor(FOUR)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", bytes(16))
    with pytest.raises(CheckpointError, match="twice"):
        read(path)


def test_zip_of_something_else(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("holiday.jpg", b"x")
    with pytest.raises(CheckpointError, match="holds holiday.jpg"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"x")
        archive.writestr("b/data.pkl", b"x")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read(path)


# ---------------------------------------------------------------- which format


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"<html><body>Sign in</body>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "git lfs pull"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "default zip format"),
        (pickle.dumps({}, 5), "default zip format"),
        (b"GIF89a", "unknown format.*GIF89a.*safetensors, torch zip.*Keras 3"),
        (b"PK\x03\x04", "damaged or cut off"),
        (b"x", "unknown format"),
    ],
)
def test_not_a_checkpoint(path, content, message):
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_not_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such checkpoint file.*nowhere") as caught:
        read(tmp_path / "nowhere")
    assert caught.value.filename == str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="directory"):
        read(tmp_path)


def test_format_is_seen_from_the_content(tmp_path):
    torch_save(tmp_path / "a.safetensors", {"w": tensor(FOUR)})
    write_safetensors(tmp_path / "a.pth", {"w": FOUR})
    assert read(tmp_path / "a.safetensors").format == "torch"
    assert read(str(tmp_path / "a.pth")).format == "safetensors"


def test_mapping(path):
    torch_save(path, {"w": tensor(FOUR), "v": tensor(values(2, 3))})
    with read(path) as found:
        assert found.path == path
        assert found.info("v") == ((2, 3), np.dtype("float32"))
        assert found.info("v").shape == (2, 3)
        assert found["w"] is not found["w"]
        for access in (found.__getitem__, found.info):
            with pytest.raises(KeyError, match="nothing"):
                access("nothing")
        assert found.get("nothing") is None
        with pytest.raises(TypeError):
            found["w"] = FOUR
        file = found._source.file
    assert file.closed
    assert found.info("w").shape == (4,)
    with pytest.raises(CheckpointError, match="closed"):
        found["w"]


def test_forgotten_mapping_closes_its_file(path):
    found = read(torch_save(path, {"w": tensor(FOUR)}))
    file = found._source.file
    del found
    assert file.closed


def test_membership_and_info_read_no_data(path, monkeypatch):
    found = read(torch_save(path, {"w": tensor(FOUR)}))
    monkeypatch.setattr(found._source, "fill", None)
    assert "w" in found
    assert found.info("w").dtype == np.float32
    with pytest.raises(TypeError):
        found["w"]


# ---------------------------------------------------------------- safetensors

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


# ---------------------------------------------------------------- Keras


@pytest.fixture(scope="module")
def keras_model():
    import keras

    class Attention(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.query = keras.layers.Dense(4, name="proj_q", dtype=self.dtype_policy)
            self.norms = [keras.layers.BatchNormalization(name=f"norm{i}") for i in (1, 2)]
            self.drop = keras.layers.Dropout(0.5, seed=3)

        def build(self, shape):
            self.token = self.add_weight(shape=(1, shape[-1]), name="cls_token")
            for layer in (self.query, *self.norms):
                layer.build(shape)
            super().build(shape)

        def call(self, x):
            return self.drop(self.norms[1](self.norms[0](self.query(x + self.token))))

    class Block(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.attn = Attention(name="attn", dtype=self.dtype_policy)

        def build(self, shape):
            self.attn.build(shape)
            super().build(shape)

        def call(self, x):
            return self.attn(x)

    inputs = x = keras.Input((4,), name="images")
    x = Block(name="stage1_blocks_0")(x)
    x = Block(name="stage1_blocks_1")(x)
    x = keras.layers.Dense(4, dtype="bfloat16", name="narrow")(x)
    top = [keras.Input((4,)), keras.layers.Dense(3, name="fc", use_bias=False)]
    model = keras.Model(inputs, keras.Sequential(top, name="head")(x), name="cvt")
    model.compile("adam", "mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(rng.normal(size=variable.shape))
    return model


def numpy_of(variable):
    import keras

    return keras.ops.convert_to_numpy(variable.value)


def expected_of(model):
    expected = {}
    for i in (0, 1):
        attn = model.get_layer(f"stage1_blocks_{i}").attn
        layers = {"": [attn.token], "/proj_q": attn.query.variables}
        # Keras saves trainable variables first.
        for norm in attn.norms:
            order = [norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance]
            layers[f"/{norm.name}"] = order
        for name, variables in layers.items():
            for place, variable in enumerate(variables):
                expected[f"stage1_blocks_{i}/attn{name}/{place}"] = numpy_of(variable)
    narrow, fc = model.get_layer("narrow"), model.get_layer("head").get_layer("fc")
    expected["narrow/0"] = numpy_of(narrow.kernel)
    expected["narrow/1"] = numpy_of(narrow.bias)
    expected["head/fc/0"] = numpy_of(fc.kernel)
    return expected


@pytest.mark.parametrize("name", ["model.weights.h5", "model.keras"])
def test_keras_model(keras_model, tmp_path, name):
    path = tmp_path / name
    (keras_model.save_weights if name.endswith("h5") else keras_model.save)(path)
    with read(path) as found:
        assert found.format == "keras-h5"
        expected = expected_of(keras_model)
        assert expected["narrow/0"].dtype == ml_dtypes.bfloat16
        assert_same(found, expected)
        assert found.info("stage1_blocks_1/attn/proj_q/0") == ((4, 4), np.dtype("float32"))


def test_keras_archive_is_checked_before_it_is_parsed(keras_model, tmp_path):
    path = tmp_path / "model.keras"
    keras_model.save(path)
    data = bytearray(path.read_bytes())
    weights = numpy_of(keras_model.get_layer("head").get_layer("fc").kernel).tobytes()
    data[data.index(weights)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model.weights.h5.*CRC-32"):
        read(path)


def save_layer(parent, group, name, *arrays):
    variables = parent.create_group(f"{group}/vars".lstrip("/"))
    variables.attrs["name"] = name
    for place, array in enumerate(arrays):
        variables[str(place)] = array


@pytest.fixture
def h5(path):
    """A small weights file, still open for changes; reading closes it."""
    with h5py.File(path, "w") as file:
        save_layer(file, "layers/dense", "fc", values(2, 3), values(3))
        save_layer(file, "", "model")
        yield file


def refused(file, message):
    path = file.filename
    file.close()
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert path in str(caught.value)


def test_h5_as_keras_wrote_it_before(path):
    # Early versions: other top group, seed generators and optimizers saved like layers.
    with h5py.File(path, "w") as file:
        root = file.create_group("_layer_checkpoint_dependencies")
        save_layer(root, "dense", "fc", values(2), np.float32(3))
        save_layer(root, "dropout", "drop")
        save_layer(root, "dropout/seed_generator", "seed_generator", np.zeros(2, np.uint32))
        save_layer(root, "dense/optimizer", "adam", np.zeros(2))
        save_layer(file, "optimizer", "adam", np.zeros(2))
        save_layer(file, "metrics/mean", "mean", np.zeros(2))
    assert_same(read(path), {"fc/0": values(2), "fc/1": np.array(3, np.float32)})


def test_h5_empty_variable(h5):
    save_layer(h5, "layers/none", "none", np.empty((0, 3), np.float32))
    path = h5.filename
    h5.close()
    assert read(path)["none/0"].shape == (0, 3)


def test_h5_two_tensors_of_one_name(h5):
    save_layer(h5, "layers/dense_1", "fc", values(2))
    refused(h5, "two tensors are named fc/0")


def test_h5_of_something_else(path):
    with h5py.File(path, "w") as file:
        file["model_weights/dense/kernel:0"] = values(2)
    with pytest.raises(CheckpointError, match="holds model_weights, and no layers"):
        read(path)


def test_h5_without_a_name(h5):
    del h5["layers/dense/vars"].attrs["name"]
    refused(h5, "damaged")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (3, "not text"),
        (np.bytes_(b"fc"), "not text"),
        (["a", "b"], "an array"),
        (["a"], "an array"),
        ("x" * 513, "not a short text"),
    ],
)
def test_h5_name_that_is_none(h5, name, message):
    h5["layers/dense/vars"].attrs["name"] = name
    refused(h5, f"attribute name is {message}")


def test_h5_links(h5, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        save_layer(other, "layers/dense", "fc", values(2))
    h5["layers/more"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/layers/dense")
    refused(h5, "more is a link")


def test_h5_soft_link(h5):
    h5["layers/dense/vars/2"] = h5py.SoftLink("/layers/dense/vars/0")
    refused(h5, "2 is a link")


def test_h5_cycle(h5):
    h5["layers/dense/self"] = h5["layers"]
    refused(h5, "linked twice")


def test_h5_two_ways_to_a_group(h5):
    # Each such pair would double the work of a walk that does not look where it has been.
    h5["layers/one"] = h5.create_group("layers/two")
    refused(h5, "linked twice")


def test_h5_too_deep(h5):
    h5.create_group("layers/" + "a/" * 100)
    refused(h5, "too deep")


def test_h5_data_elsewhere(h5, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    h5["layers/dense/vars"].create_dataset("2", (4,), "float32", external=[(str(secret), 0, 16)])
    refused(h5, "fc/2 is chunked, compressed or elsewhere")


def test_h5_virtual_data(h5):
    layout = h5py.VirtualLayout((2, 3), "float32")
    layout[:] = h5py.VirtualSource(h5["layers/dense/vars/0"])
    h5["layers/dense/vars"].create_virtual_dataset("2", layout)
    refused(h5, "fc/2 is chunked, compressed or elsewhere")


@pytest.mark.parametrize("options", [{"chunks": (64,)}, {"compression": "gzip"}])
def test_h5_bomb(h5, options):
    h5["layers/dense/vars"].create_dataset("2", (1 << 40,), "uint8", **options)
    refused(h5, "fc/2 is chunked")


@pytest.mark.parametrize("size", [4, 1 << 40])
def test_h5_data_never_written(h5, size):
    h5["layers/dense/vars"].create_dataset("2", (size,), "uint8")
    refused(h5, "fc/2")


@pytest.mark.parametrize(
    "array",
    [values(2).astype(">f4"), np.bytes_(b"text"), np.zeros(2, [("a", "f4"), ("b", "i4")])],
)
def test_h5_number_formats(h5, array):
    h5["layers/dense/vars"]["2"] = array
    refused(h5, "fc/2 has")


def test_h5_number_format_of_its_own(h5):
    # HDF5 can describe any floating-point format; h5py shows the nearest that numpy has.
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    variables = h5["layers/dense/vars"]
    space = h5py.h5s.create_simple((2,))
    h5py.h5d.create(variables.id, b"2", kind, space)
    variables["2"][:] = 1
    refused(h5, "fc/2 has a number format")


def test_h5_narrow_offsets(path):
    plan = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    plan.set_sizes(4, 4)
    h5py.h5f.create(bytes(path), fcpl=plan).close()
    with pytest.raises(CheckpointError, match="8 bytes wide"):
        read(path)


def test_h5_not_a_dataset(h5):
    h5.create_group("layers/dense/vars/2")
    refused(h5, "2 is not what Keras puts there")


def test_h5_not_a_group(h5):
    h5["layers/stray"] = values(2)
    refused(h5, "stray is not what Keras puts there")


def in_a_process(path, seconds=20):
    """Reads a file in a process of its own, for the case that the HDF5 library hangs or crashes."""
    program = "import sys; from keras_cvt.checkpoints import read; dict(read(sys.argv[1]))"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(
        [sys.executable, "-c", program, path],
        env=environment,
        timeout=seconds,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("size", [0, 2**40])
def test_h5_text_that_would_never_end(h5, size):
    # HDF5 1.14 walks for ever through a global heap whose free space has the size 0.
    path = Path(h5.filename)
    h5.close()
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL") + 16
    while struct.unpack_from("<H", data, heap)[0]:
        heap += 16 + -(-struct.unpack_from("<Q", data, heap + 8)[0] // 8) * 8
    struct.pack_into("<Q", data, heap + 8, size)
    path.write_bytes(data)
    assert "CheckpointError" in in_a_process(path).stderr


# ---------------------------------------------------------------- any damage, any format


def keras_like(path):
    with h5py.File(path, "w") as file:
        save_layer(file, "layers/dense", "fc", values(2, 3), values(3))
        save_layer(file, "layers/block/attn", "attn", values(4))
        file["layers/block"].create_group("vars").attrs["name"] = "block0"


SAMPLES = {
    "torch": lambda path: torch_save(
        path, {"model": OrderedDict(a=tensor(values(3, 2)), b=parameter(tensor(values(5))))}
    ),
    "safetensors": lambda path: write_safetensors(path, {"a": values(3, 2), "b": np.arange(3)}),
    "keras-h5": keras_like,
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    result = {}
    for name, make in SAMPLES.items():
        make(folder / name)
        result[name] = (folder / name).read_bytes()
    return result


def read_or_refuse(path):
    """Reads everything; says whether it was refused. Any error but a CheckpointError passes through."""
    try:
        with read(path) as found:
            dict(found)
    except CheckpointError as error:
        assert str(path) in str(error)
        return True
    return False


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated(samples, path, name):
    data = samples[name]
    path.write_bytes(data)
    assert not read_or_refuse(path)
    step = math.ceil(len(data) / 150)
    for length in [*range(0, len(data), step), len(data) - 1]:
        path.write_bytes(data[:length])
        assert read_or_refuse(path), length


bounded = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
damages = st.lists(
    st.tuples(
        st.integers(0, 2**20), st.sampled_from(["flip", "set", "number"]), st.integers(0, 255)
    ),
    min_size=1,
    max_size=6,
)


def damaged(data, draws):
    data = bytearray(data)
    for at, kind, value in draws:
        at %= len(data)
        if kind == "flip":
            data[at] ^= 1 << value % 8
        elif kind == "set":
            data[at] = value
        else:
            number = [0, 1, 2**31, 2**32, 2**63, 2**64 - 1, len(data), at][value % 8]
            data[at : at + 8] = struct.pack("<Q", number)[: len(data) - at]
    return bytes(data)


# HDF5 files are left to the test below, where a crash of the C library ends another process.
@pytest.mark.parametrize("name", ["torch", "safetensors"])
@given(draws=damages)
@bounded
def test_damaged(samples, path, name, draws):
    path.write_bytes(damaged(samples[name], draws))
    read_or_refuse(path)


@given(draws=damages, protocol=st.sampled_from([2, 4]))
@bounded
def test_damaged_pickle_with_a_correct_checksum(path, draws, protocol):
    value = OrderedDict(a=tensor(values(3, 2)), b=parameter(tensor(values(5))))
    pickled, storages = torch_pickled({"model": value, "epoch": 3}, protocol)
    write_archive(path, damaged(pickled, draws), storages)
    read_or_refuse(path)


@given(position=st.integers(0, 2**20), bit=st.integers(0, 7))
@bounded
def test_no_flipped_bit_changes_a_value_of_a_torch_file_unseen(samples, path, position, bit):
    data = bytearray(samples["torch"])
    data[position % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        with read(path) as found:
            arrays = dict(found)
    except CheckpointError:
        return
    assert_same(arrays, {"a": values(3, 2), "b": values(5)})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the fuzz program forks")
def test_fuzz_program(samples, path):
    files = []
    for name, data in samples.items():
        files.append(path.with_name(name))
        files[-1].write_bytes(data)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    program = CHECKOUT / "tests" / "support" / "fuzz_checkpoints.py"
    done = subprocess.run(
        [sys.executable, program, "--runs", "60", *files],
        env=environment,
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("'refused'") == 3


# ---------------------------------------------------------------- memory

MIB = 1 << 20


def large_torch(path, arrays):
    torch_save(path, {name: tensor(array) for name, array in arrays.items()})


def large_keras(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            save_layer(file, f"layers/{name}", name, array)


@pytest.mark.parametrize("make", [large_torch, write_safetensors, large_keras])
def test_memory_is_that_of_one_tensor(path, tmp_path, make):
    arrays = {f"t{i}": values(MIB // 4, seed=i) for i in range(16)}
    make(path, arrays)
    total = sum(arrays[name].sum() for name in arrays)
    del arrays
    tracemalloc.start()
    try:
        with read(path) as found:
            assert tracemalloc.get_traced_memory()[1] < MIB
            assert np.isclose(sum(found[name].sum() for name in found), total)
            assert tracemalloc.get_traced_memory()[1] < 2.5 * MIB
            write_safetensors(tmp_path / "out", found)
            assert tracemalloc.get_traced_memory()[1] < 2.5 * MIB
    finally:
        tracemalloc.stop()
    assert os.path.getsize(tmp_path / "out") > 16 * MIB


# ---------------------------------------------------------------- files made by others


@needs_reference
def test_reference_files_hold_the_same_tensors():
    tiny = REFERENCE / "tiny"
    official = read(tiny / "official.pth")
    pickled = read(tiny / "huggingface" / "pytorch_model.bin")
    plain = read(tiny / "huggingface" / "model.safetensors")
    assert (official.format, pickled.format, plain.format) == ("torch", "torch", "safetensors")
    assert_same(plain, safetensors.numpy.load_file(tiny / "huggingface" / "model.safetensors"))
    assert_same(pickled, plain)

    # Hugging Face's names differ, the tensors do not.
    def content(checkpoint):
        return sorted((a.shape, a.dtype.str, a.tobytes()) for a in checkpoint.values())

    assert content(official) == content(plain)
    assert_same(
        {"x": official["head.weight"]},
        {"x": plain["classifier.weight"]},
    )


@needs_reference
def test_reference_files_all_read():
    files = sorted(REFERENCE.glob("*/official.pth"))
    assert len(files) >= 5
    for file in files:
        with read(file) as found:
            assert all(np.isfinite(array).all() for array in found.values())
            assert found["stage0.patch_embed.proj.weight"].ndim == 4


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("checksums", [True, False])
def test_real_torch_save(torch, path, protocol, checksums):
    base = torch.arange(24.0)
    state = {
        "weight": torch.nn.Parameter(torch.randn(4, 3)),
        "view": base.view(4, 6).t(),
        "same": base[5:9],
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
    }
    for name in (*STORAGES, "uint16", "uint32", "uint64"):
        state[name] = torch.arange(6).to(getattr(torch, name)).reshape(2, 3)
    for name in ("float8_e4m3fn", "float8_e5m2"):
        state[name] = torch.arange(6.0).to(getattr(torch, name))
    noted = torch.nn.Parameter(torch.ones(2))
    noted.note = "kept beside it"
    state["noted"] = noted
    value = {"epoch": 3, "model": {f"module.{k}": v for k, v in state.items()}, "lr": 0.1}
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(value, path, pickle_protocol=protocol)
    finally:
        torch.serialization.set_crc32_options(True)
    found = read(path)
    assert list(found) == list(state)
    for name, expected in state.items():
        raw = expected.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        assert found[name].shape == tuple(expected.shape), name
        assert found[name].dtype.name == str(expected.dtype).removeprefix("torch."), name
        assert found[name].tobytes() == raw, name


def test_real_torch_training_checkpoint(torch, path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    torch.save({"state_dict": state, "optimizer": optimizer.state_dict(), "epoch": 1}, path)
    assert_same(read(path), {name: value.numpy() for name, value in state.items()})


def test_real_torch_what_is_refused(torch, path):
    def check(message):
        with pytest.raises(CheckpointError, match=message):
            read(path)

    torch.save({"a": torch.ones(1).expand(1000)}, path)
    check("tensor a repeats elements")
    torch.save({"a": torch.ones(2, dtype=torch.complex64).conj()}, path)
    check("conjugated")
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    check("default zip format")
    torch.save({"a": torch.ones(2).to_sparse()}, path)
    check("_rebuild_sparse_tensor")
    torch.save(torch.nn.Linear(2, 2), path)
    check("torch.nn.modules.linear.Linear")


@needs_reference
def test_reference_files_as_torch_reads_them(torch):
    for file in sorted(REFERENCE.glob("*/official.pth")):
        state = torch.load(file, weights_only=True)
        assert_same(read(file), {name: value.numpy() for name, value in state.items()})
