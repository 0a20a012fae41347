"""What `torch.save` writes: what can be read of it, and what is refused."""

import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from checkpoint_files import (
    FOUR,
    REFERENCE,
    STORAGES,
    Call,
    Global,
    Storage,
    assert_same,
    needs_reference,
    parameter,
    storage,
    tensor,
    torch_save,
    values,
)

from keras_cvt.checkpoints import CheckpointError, read


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
    with pytest.raises(CheckpointError, match="several state dicts: model and state_dict"):
        read(torch_save(path, two))


def test_torch_names_stay_as_they_are(path):
    # Of a prefix such as "module.", whoever knows the names of a CvT takes care.
    state = {"module.a": values(2), "module.module.b": values(3)}
    assert_same(read(torch_save(path, {k: tensor(v) for k, v in state.items()})), state)


def test_torch_state_under_any_key(path):
    array = values(2)
    state = {"a.w": tensor(array)}
    beside = {
        "best_accuracy": tensor(np.array(0.8)),
        "optimizer": {"state": {0: {"exp_avg": tensor(array)}, "x": {"exp_avg": tensor(array)}}},
        "epoch": 3,
    }
    for wrapped in ({"net": state}, {"module": {"student": {"weights": state}}}):
        assert_same(read(torch_save(path, {**wrapped, **beside})), {"a.w": array})
    ema = {"a.w": tensor(array)}
    for value, message in (
        (
            {"state_dict": state, "state_dict_ema": ema},
            "state_dict and state_dict_ema; save the one",
        ),
        ({**state, "deep": {"ema": ema}}, "the outermost and deep > ema; save the one"),
    ):
        with pytest.raises(CheckpointError, match=f"several state dicts: {message}"):
            read(torch_save(path, {**value, **beside}))


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


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor(np.zeros(2)), "holds a tensor"),
        ([tensor(np.zeros(2))], "holds a list"),
        ({}, "no tensors"),
        ({"epoch": 3, "weights": [tensor(np.zeros(2))]}, "no tensors.*epoch, weights"),
        ({"w": tensor(np.zeros(2)), 3: tensor(np.zeros(2))}, "not a string"),
        ({"w": tensor(np.zeros(2), extra=({"conj": True},))}, "conjugated"),
    ],
)
def test_torch_without_a_state_dict(path, value, message):
    with pytest.raises(CheckpointError, match=message):
        read(torch_save(path, value))


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
    state = {f"module.{name}": value for name, value in state.items()}
    value = {"epoch": 3, "model": state, "lr": 0.1}
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
