"""Zip archives that are damaged, or lie about what they hold."""

import struct
import tracemalloc
import zipfile

import pytest
from checkpoint_files import FOUR, tensor, torch_save, values

from keras_cvt.checkpoints import CheckpointError, read
from keras_cvt.checkpoints.archive import _MAX_ZIP_DIRECTORY


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
