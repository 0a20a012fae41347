"""Pickles that want to run code, to fill the memory or to last for ever."""

import contextlib
import pickle
import struct
import tracemalloc

import pytest
from checkpoint_files import (
    FOUR,
    assert_same,
    tensor,
    torch_pickled,
    write_archive,
)

from keras_cvt.checkpoints import CheckpointError, read, torch_pickle


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
        b"}q\x01" + b"".join(text(k) + b"h\x01s" for k in ("model", "state_dict")) + b".",
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
