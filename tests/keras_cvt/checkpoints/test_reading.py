"""What holds for every format: which one it is, the mapping, damage and memory."""

import math
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from collections import OrderedDict

import h5py
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from checkpoint_files import (
    FOUR,
    REFERENCE,
    assert_same,
    needs_reference,
    parameter,
    save_layer,
    tensor,
    torch_pickled,
    torch_save,
    values,
    write_archive,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import CHECKOUT

from keras_cvt.checkpoints import CheckpointError, read, write_safetensors


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
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("'refused'") == 3


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
