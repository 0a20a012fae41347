"""Any checkpoint file -> {name: numpy array}. No pickle is ever run.

Each format has one function that turns the file's own index into a table of `_Tensor`: where a
tensor's bytes lie in the file, and how to look at them. Everything that can be wrong with an index
is found there, before any data is read. After that all formats are alike: a tensor is read straight
from the file into its array when it is asked for, so a conversion needs the memory of its largest
tensor, and no allocation is larger than the file.
"""

import errno
import itertools
import json
import math
import os
import secrets
import struct
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from io import SEEK_CUR, SEEK_END, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import h5py
import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from keras_cvt import torch_pickle
from keras_cvt.torch_pickle import shown

# Bounds on what is parsed in Python; the tables of a model with 10,000 tensors stay far below them.
_MAX_SAFETENSORS_HEADER = 16 << 20
_MAX_ZIP_DIRECTORY = 8 << 20
_MAX_RANK = 32
_MAX_H5_DEPTH = 64
_MAX_H5_NAME = 512
_MAX_H5_HEAP = 1 << 20

_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_SAFETENSORS_TAGS = {dtype: tag for tag, dtype in _SAFETENSORS_DTYPES.items()}
_DTYPES = {*_SAFETENSORS_TAGS, "complex128"}

_H5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_H5_ROOTS = ("layers", "_layer_checkpoint_dependencies")
# State that belongs to a training run, not to the model.
_H5_SKIPPED = ("optimizer", "seed_generator")
_SUPPORTED = (
    "supported are safetensors, torch zip checkpoints (.pth, .pt, .bin), and .weights.h5 and .keras "
    "files of Keras 3"
)


class CheckpointError(ValueError):
    """A file that is not a checkpoint, is damaged, or asks for more than its tensors."""


class TensorInfo(NamedTuple):
    """What is known of a tensor before its data is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class _Record(NamedTuple):
    """Bytes of the file that have a checksum of their own: a member of a zip archive."""

    name: str
    start: int
    size: int
    crc: int


class _Tensor(NamedTuple):
    """A tensor's place in the file, from `start`, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]
    start: int
    nbytes: int
    record: _Record | None = None


class _Source:
    """An open file of known size; every error that it makes names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by the Checkpoint
        self.size = os.fstat(self.file.fileno()).st_size

    def error(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {problem}")

    def fill(self, start: int, buffer: memoryview) -> None:
        self.file.seek(start)
        done = 0
        while done < len(buffer):
            count = self.file.readinto(buffer[done:])
            if not count:
                raise self.error(f"the file ends before byte {start + len(buffer)}; is it cut off?")
            done += count

    def read(self, start: int, size: int) -> bytearray:
        data = bytearray(size)
        self.fill(start, memoryview(data))
        return data

    def check(self, record: _Record) -> None:
        """Compares a record with its checksum, a piece at a time."""
        # torch writes zeros where it was told not to compute checksums.
        if not record.crc:
            return
        crc, piece = 0, memoryview(bytearray(min(record.size, 1 << 20)))
        for start in range(0, record.size, len(piece) or 1):
            part = piece[: record.size - start]
            self.fill(record.start + start, part)
            crc = zlib.crc32(part, crc)
        if crc != record.crc:
            raise self.error(f"the data of {shown(record.name)} is damaged (its CRC-32 differs)")


class Checkpoint(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint file by name, each read when it is asked for.

    Made by `read`. Every access reads the tensor again and gives a new array; keep what you need.
    Closes its file in a `with` statement, by `close()`, or when it is garbage. Several threads must
    not read from one object at the same time.

    Attributes:
        path: The file.
        format: `"safetensors"`, `"torch"` or `"keras-h5"`.
    """

    def __init__(self, source: _Source, format: str, tensors: dict[str, _Tensor]) -> None:
        self.path = source.path
        self.format = format
        self._source = source
        self._tensors = tensors
        self._checked: set[_Record] = set()
        self._finalizer = weakref.finalize(self, source.file.close)

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        if not self._finalizer.alive:
            raise CheckpointError(f"{self.path} is closed")
        try:
            return self._read(tensor)
        except CheckpointError as error:
            raise CheckpointError(f"{error}, in the tensor {shown(name)}") from None

    def _read(self, tensor: _Tensor) -> np.ndarray:
        data = np.empty(tensor.nbytes, np.uint8)
        self._source.fill(tensor.start, memoryview(data))
        record = tensor.record
        if record and record not in self._checked:
            if tensor.nbytes < record.size or zlib.crc32(data) != record.crc:
                self._source.check(record)
            self._checked.add(record)
        array = np.ndarray(tensor.shape, tensor.dtype, buffer=data, strides=tensor.strides)
        return array if array.flags.c_contiguous else array.copy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __repr__(self) -> str:
        return f"<{self.format} checkpoint {self.path}, {len(self)} tensors>"

    def info(self, name: str) -> TensorInfo:
        """Tells a tensor's shape and dtype without reading its data.

        Args:
            name: The tensor's name.

        Returns:
            Its `shape` and `dtype`.

        Raises:
            KeyError: There is no such tensor.
        """
        tensor = self._tensors[name]
        return TensorInfo(tensor.shape, tensor.dtype)

    def close(self) -> None:
        """Closes the file. Shapes and dtypes are still known afterwards."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint file. What it is, is seen from its content; its name does not matter.

    The names are those of the file, with two exceptions: a prefix `module.` that all names of a
    torch checkpoint share is taken off, and tensors of a Keras file are named after the layers they
    belong to, as in `"stage1_blocks_0/attn/proj_q/0"`, where the number is the variable's place in
    its layer.

    Args:
        path: A safetensors file, a torch checkpoint (a zip archive, the default of `torch.save`
            since torch 1.6) that holds a state dict, or a `.weights.h5` or `.keras` file of Keras 3.

    Returns:
        A read-only mapping from names to arrays, in the order of the file. Tensors are read when
        they are asked for.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: It is not a checkpoint, is damaged, or is a pickle that asks for anything
            but tensors.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "There is no such checkpoint file", str(path))
    if not path.is_file():
        raise CheckpointError(f"{path}: is a directory or a device, not a checkpoint file")
    source = _Source(path)
    try:
        format, tensors = _index(source)
        return Checkpoint(source, format, tensors)
    except BaseException:
        source.file.close()
        raise


def _index(source: _Source) -> tuple[str, dict[str, _Tensor]]:
    head = bytes(source.read(0, min(source.size, 64)))
    if head.startswith(b"PK\x03\x04"):
        members = _zip_members(source)
        if "model.weights.h5" in members:
            record = _zip_record(source, members["model.weights.h5"])
            # The C library that parses the file is not proof against damage; the checksum is.
            source.check(record)
            return "keras-h5", _index_h5(source, record.start, record.size)
        return "torch", _index_torch(source, members)
    if head.startswith(_H5_SIGNATURE):
        return "keras-h5", _index_h5(source, 0, source.size)
    if head[8:9] == b"{":
        return "safetensors", _index_safetensors(source)
    raise source.error(_what_it_is(head))


def _what_it_is(head: bytes) -> str:
    """Says what a file is that is no checkpoint."""
    if not head:
        return f"the file is empty; {_SUPPORTED}"
    if head.startswith(b"version https://git-lfs"):
        return "this is a git-lfs pointer, not the weights: fetch them with `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "this is an HTML page, not weights: did the download ask for a login?"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "this is a bare pickle, as torch wrote before version 1.6: re-save it with torch.save "
            "in its default zip format"
        )
    return f"unknown format, it starts with {head[:16]!r}; {_SUPPORTED}"


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of an array in C order."""
    steps = itertools.accumulate(reversed(shape[1:]), int.__mul__, initial=1)
    return tuple(steps)[::-1] if shape else ()


def _dtype(source: _Source, name: str, dtype: str) -> np.dtype:
    if dtype not in _DTYPES:
        raise source.error(
            f"tensor {shown(name)} has the dtype {shown(dtype)}, which is not supported"
        )
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def _place(
    source: _Source,
    name: str,
    info: TensorInfo,
    region: tuple[int, int],
    strides: tuple[int, ...] | None = None,
    record: _Record | None = None,
) -> _Tensor:
    """A checked `_Tensor`; it starts with its `region` and may not leave it. Strides are elements."""
    (shape, dtype), (start, end) = info, region
    # numpy refuses sizes whose product overflows, even where one of them is 0.
    if len(shape) > _MAX_RANK or math.prod(max(size, 1) for size in shape) >= 1 << 56:
        raise source.error(f"tensor {shown(name)} has an absurd shape: {shown(shape)}")
    numel, steps = math.prod(shape), _contiguous(shape)
    if strides is not None and numel:
        # torch leaves any number as the stride of an axis that is never stepped along.
        triples = zip(shape, strides, steps, strict=True)
        steps = tuple(step if size > 1 else usual for size, step, usual in triples)
    span = numel and 1 + sum((size - 1) * step for size, step in zip(shape, steps, strict=True))
    nbytes = span * dtype.itemsize
    if not 0 <= start <= start + nbytes <= end <= source.size:
        raise source.error(f"tensor {shown(name)} lies outside its data; is the file cut off?")
    if numel > span:
        raise source.error(f"tensor {shown(name)} repeats elements (expanded): save it contiguous")
    strides = tuple(step * dtype.itemsize for step in steps)
    return _Tensor(shape, dtype, strides, start, nbytes, record)


def _index_safetensors(source: _Source) -> dict[str, _Tensor]:
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > min(_MAX_SAFETENSORS_HEADER, source.size - 8):
        raise source.error(f"its safetensors header would be {length} bytes long; is it cut off?")
    try:
        # Sizes, overlaps, gaps and the header's grammar are the library's to judge.
        with safe_open(str(source.path), framework="numpy"):
            pass
        header = json.loads(source.read(8, length), object_pairs_hook=_without_duplicates)
    except (SafetensorError, ValueError) as error:
        raise source.error(f"not a valid safetensors file: {error}") from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, spec in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = (8 + length + offset for offset in spec["data_offsets"])
        dtype = _dtype(source, name, _SAFETENSORS_DTYPES.get(spec["dtype"], spec["dtype"]))
        info = TensorInfo(tuple(spec["shape"]), dtype)
        tensors[name] = _place(source, name, info, (start, end))
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name occurs twice in its header")
    return result


class _Window(RawIOBase):
    """A part of a file as a file of its own, for parsers that want one."""

    def __init__(self, source: _Source, start: int, size: int) -> None:
        self._source, self._start, self._size, self._at = source, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + {SEEK_CUR: self._at, SEEK_END: self._size}.get(whence, 0)
        if at < 0:
            raise ValueError("a position before the start of the file")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(self._size - self._at, 0)]
        self._source.fill(self._start + self._at, view)
        self._at += len(view)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        # zipfile takes the size of the archive's table of contents from the archive, and its
        # objects need ten times the room.
        left = max(self._size - self._at, 0)
        size = left if size < 0 else min(size, left)
        if size > _MAX_ZIP_DIRECTORY:
            raise ValueError("the archive's table of contents is absurdly large")
        return super().read(size)


def _zip_members(source: _Source) -> dict[str, zipfile.ZipInfo]:
    try:
        with zipfile.ZipFile(_Window(source, 0, source.size)) as archive:
            members = archive.infolist()
    # zipfile meets damage with a dozen kinds of exception.
    except Exception as error:
        raise source.error(f"damaged or cut off zip archive: {error}") from error
    result = {member.filename: member for member in members}
    if len(result) < len(members):
        raise source.error("a name occurs twice in the zip archive")
    return result


def _zip_record(source: _Source, member: zipfile.ZipInfo) -> _Record:
    """Where a member's bytes lie. Nothing is ever decompressed: torch and Keras only store."""
    name = shown(member.filename)
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise source.error(
            f"{name} is compressed in the zip archive, which torch and Keras never do"
        )
    if member.flag_bits & 1:
        raise source.error(f"{name} is encrypted")
    at, header = member.header_offset, struct.Struct("<4s22xHH")
    if 0 <= at <= source.size - header.size:
        signature, *lengths = header.unpack(source.read(at, header.size))
        start = at + header.size + sum(lengths)
        if signature == b"PK\x03\x04" and start + member.file_size <= source.size:
            return _Record(member.filename, start, member.file_size, member.CRC)
    raise source.error(f"{name} lies outside the zip archive; is it cut off?")


def _zip_text(source: _Source, member: zipfile.ZipInfo) -> bytes:
    """A small member: the pickle, or one of torch's notes."""
    record = _zip_record(source, member)
    if record.size > torch_pickle.MAX_BYTES:
        raise source.error(f"{shown(record.name)} is absurdly large, {record.size} bytes")
    source.check(record)
    return bytes(source.read(record.start, record.size))


def _index_torch(source: _Source, members: dict[str, zipfile.ZipInfo]) -> dict[str, _Tensor]:
    roots = [name.partition("/")[0] for name in members if name.partition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        names = ", ".join(shown(name) for name in list(members)[:5]) or "nothing"
        raise source.error(f"a zip archive, but no checkpoint: it holds {names}; {_SUPPORTED}")
    root = roots[0]
    if f"{root}/constants.pkl" in members:
        raise source.error("a TorchScript archive: save the module's state_dict() instead")
    if f"{root}/byteorder" in members:
        order = _zip_text(source, members[f"{root}/byteorder"])
        if order != b"little":
            raise source.error(
                f"its byte order is {shown(order.decode('latin1'))}: only little-endian is supported"
            )
    try:
        state = torch_pickle.state_dict(_zip_text(source, members[f"{root}/data.pkl"]))
    except CheckpointError:
        raise
    except ValueError as error:
        raise source.error(str(error)) from error

    records: dict[str, _Record] = {}
    tensors = {}
    for name, tensor in state.items():
        storage = tensor.storage
        if storage.key not in records:
            member = members.get(f"{root}/data/{storage.key}")
            if member is None:
                raise source.error(
                    f"tensor {shown(name)}: its data, {shown(storage.key)}, is missing"
                )
            records[storage.key] = _zip_record(source, member)
        record = records[storage.key]
        itemsize = 1 if storage.dtype is None else _dtype(source, name, storage.dtype).itemsize
        if storage.numel * itemsize != record.size:
            raise source.error(
                f"tensor {shown(name)}: its data has {record.size} bytes, not the "
                f"{storage.numel} x {itemsize} that it should have"
            )
        info = TensorInfo(tensor.shape, _dtype(source, name, tensor.dtype))
        region = (record.start + tensor.offset * info.dtype.itemsize, record.start + record.size)
        tensors[name] = _place(source, name, info, region, tensor.strides, record)
    ordered = sorted(records.values(), key=lambda record: record.start)
    for one, other in itertools.pairwise(ordered):
        if one.start + one.size > other.start:
            raise source.error(f"{shown(one.name)} and {shown(other.name)} overlap in the archive")
    return tensors


class _H5Window(_Window):
    """A window that stops damage on which the HDF5 library is known to loop for ever.

    Text attributes lie in "global heaps", which the library walks from object to object by sizes
    that it does not check. The walk is tried here first, when it reads the head of a heap.
    """

    def readinto(self, buffer: Any) -> int:
        at = self._start + self._at
        count = super().readinto(buffer)
        head = bytes(memoryview(buffer).cast("B")[: min(count, 16)])
        if head[:4] == b"GCOL":
            size = int.from_bytes(head[8:], "little")
            if len(head) < 16 or size > _MAX_H5_HEAP or not _is_heap(self._source.read(at, size)):
                raise OSError("a damaged global heap")
        return count


def _is_heap(data: bytearray) -> bool:
    at, item = 16, struct.Struct("<H6xQ")
    while at + item.size <= len(data):
        index, length = item.unpack_from(data, at)
        # Object 0 is the free space; its length includes its own header.
        step = item.size + -(-length // 8) * 8 if index else length
        if step < item.size:
            return False
        at += step
    return at <= len(data)


def _index_h5(source: _Source, start: int, size: int) -> dict[str, _Tensor]:
    """The tensors of a model, as `keras.Model.save_weights` lays them out.

    Each object that Keras saves is a group with a subgroup `vars`, which has the object's name as
    an attribute and its variables as datasets "0", "1", ... The groups' own names count classes
    ("cv_t_block_3") and say nothing; the chain of the `name` attributes does.
    """
    try:
        # The widths of offsets and lengths; _H5Window relies on them, and so do all machines today.
        head = source.read(start, 16)
        if tuple(head[13:15] if head[8] < 2 else head[9:11]) != (8, 8):
            raise ValueError("its offsets are not 8 bytes wide")
        with h5py.File(_H5Window(source, start, size), "r") as file:
            return _walk_h5(source, file, (start, start + size))
    except CheckpointError:
        raise
    # h5py passes damage on as OSError, RuntimeError, KeyError, TypeError and others.
    except Exception as error:
        raise source.error(f"damaged or cut off HDF5 file: {error}") from error


def _walk_h5(source: _Source, file: h5py.File, region: tuple[int, int]) -> dict[str, _Tensor]:
    roots = [name for name in _H5_ROOTS if name in file]
    if not roots:
        names = ", ".join(shown(name) for name in itertools.islice(file, 5)) or "nothing"
        raise source.error(
            f"an HDF5 file, but not the weights of a functional or sequential Keras 3 model: it "
            f"holds {names}, and no layers"
        )
    tensors: dict[str, _Tensor] = {}
    seen = set()
    todo: list[tuple[h5py.Group, tuple[str, ...], int]] = [(_h5_child(file, roots[0]), (), 0)]
    while todo:
        group, names, depth = todo.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > _MAX_H5_DEPTH:
            raise source.error(f"the HDF5 group {shown(group.name)} is linked twice, or too deep")
        seen.add(address)
        children = list(group)
        if "vars" in children:
            variables = _h5_child(group, "vars")
            names = (*names, _h5_text(variables, b"name"))
            for index in variables:
                name = "/".join((*names, index))
                if name in tensors:
                    raise source.error(f"two tensors are named {shown(name)}")
                tensors[name] = _h5_tensor(source, name, _h5_child(variables, index), region)
        below = [name for name in children if name != "vars" and name not in _H5_SKIPPED]
        todo += [(_h5_child(group, name), names, depth + 1) for name in reversed(below)]
    return tensors


def _h5_child(group: h5py.Group, name: str) -> Any:
    # A soft or external link could lead anywhere, other files included.
    if type(group.get(name, getlink=True)) is not h5py.HardLink:
        raise ValueError(f"{shown(name)} is a link to somewhere else")
    child = group[name]
    if isinstance(child, h5py.Group) == (group.name.rpartition("/")[2] == "vars"):
        raise ValueError(f"{shown(name)} is not what Keras puts there")
    return child


def _h5_text(node: Any, attribute: bytes) -> str:
    # The C library may crash on an attribute of an unexpected type, so it is not even asked for one.
    # What stays is that it allocates, for a moment, whatever length below 4 GiB a text claims.
    found = h5py.h5a.open(node.id, attribute)
    kind, extent = found.get_type(), found.get_space().get_simple_extent_type()
    if not isinstance(kind, h5py.h5t.TypeStringID) or not kind.is_variable_str():
        raise ValueError(f"the attribute {attribute.decode()} is not text")
    if extent != h5py.h5s.SCALAR:
        raise ValueError(f"the attribute {attribute.decode()} is an array")
    text = node.attrs[attribute.decode()]
    if type(text) is not str or len(text) > _MAX_H5_NAME:
        raise ValueError(f"the attribute {attribute.decode()} is not a short text")
    return text


def _h5_tensor(
    source: _Source, name: str, dataset: h5py.Dataset, region: tuple[int, int]
) -> _Tensor:
    plan = dataset.id.get_create_plist()
    if plan.get_layout() != h5py.h5d.CONTIGUOUS or plan.get_external_count():
        raise source.error(
            f"tensor {shown(name)} is chunked, compressed or elsewhere, never so by Keras"
        )
    dtype, kind = dataset.dtype, dataset.id.get_type()
    if h5py.h5a.exists(dataset.id, b"dtype") and _h5_text(dataset, b"dtype") == "bfloat16":
        # HDF5 has no such type: Keras stores two opaque bytes and a note.
        exact, dtype_name = kind.get_size() == 2, "bfloat16"
    else:
        exact, dtype_name = kind.equal(h5py.h5t.py_create(dtype, logical=True)), dtype.name
    if not exact or dtype.byteorder == ">":
        raise source.error(f"tensor {shown(name)} has a number format that is not supported")
    info = TensorInfo(dataset.shape, _dtype(source, name, dtype_name))
    offset, size = dataset.id.get_offset() or 0, dataset.id.get_storage_size()
    tensor = _place(source, name, info, (region[0] + offset, region[1]))
    if tensor.nbytes != size or (size and not offset):
        raise source.error(f"tensor {shown(name)} has {size} bytes of data, not {tensor.nbytes}")
    return tensor


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes tensors to a safetensors file, one at a time.

    The file appears under its name only when it is complete; until then, and after an error, what
    was there before is untouched.

    Args:
        path: The file to write; replaced where it exists.
        tensors: Arrays by name. With a `Checkpoint` as the source, only one tensor is in memory.
        metadata: Text to store beside the tensors, by name.

    Raises:
        CheckpointError: A name, a dtype or the metadata cannot be stored in this format.
        OSError: The file cannot be written.
    """
    path = Path(path)
    infos = {name: _info(tensors, name) for name in tensors}
    metadata = dict(metadata or {})
    texts = [*infos, *metadata, *metadata.values()]
    if not all(isinstance(text, str) for text in texts) or "__metadata__" in infos:
        raise CheckpointError(f"{path}: names and metadata must be text, no name __metadata__")
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    # Wide elements first, as the safetensors library does it: then every tensor is aligned.
    order = sorted(infos, key=lambda name: (-infos[name].dtype.itemsize, name))
    end = 0
    for name in order:
        shape, dtype = infos[name]
        if dtype.name not in _SAFETENSORS_TAGS:
            raise CheckpointError(f"{path}: tensor {shown(name)}: no safetensors dtype for {dtype}")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        tag = _SAFETENSORS_TAGS[dtype.name]
        header[name] = {"dtype": tag, "shape": list(shape), "data_offsets": [start, end]}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{path}: a name is not valid Unicode: {error}") from error
    text += b" " * (-len(text) % 8)

    # Beside the target, for a rename within one file system is what cannot be seen half done.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for name in order:
                array = tensors[name]
                if _info({name: array}, name) != infos[name]:
                    raise CheckpointError(
                        f"{path}: tensor {shown(name)} changed while it was written"
                    )
                array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
                file.write(array.reshape(-1).view(np.uint8))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _info(tensors: Mapping[str, np.ndarray], name: str) -> TensorInfo:
    if isinstance(tensors, Checkpoint):
        return tensors.info(name)
    array = tensors[name]
    if not isinstance(array, np.ndarray):
        raise CheckpointError(
            f"tensor {shown(name)} is no numpy array but a {type(array).__name__}"
        )
    return TensorInfo(array.shape, array.dtype)
