"""Keras' HDF5 weights."""

from __future__ import annotations

import itertools
import struct
from typing import Any

import h5py

from keras_cvt.checkpoints.archive import Window
from keras_cvt.checkpoints.source import (
    CheckpointError,
    Source,
    Tensor,
    TensorInfo,
    place_tensor,
    shown,
    supported_dtype,
)

_MAX_H5_DEPTH = 64

_MAX_H5_NAME = 512

_MAX_H5_HEAP = 1 << 20

H5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

_H5_ROOTS = ("layers", "_layer_checkpoint_dependencies")

# State that belongs to a training run, not to the model.
_H5_SKIPPED = ("optimizer", "seed_generator")


class _H5Window(Window):
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


def index_h5(source: Source, start: int, size: int) -> dict[str, Tensor]:
    """The tensors of a model, as `keras.Model.save_weights` lays them out.

    Each object that Keras saves is a group with a subgroup `vars`, which has the object's name as
    an attribute and its variables as datasets "0", "1", ... The groups' own names count classes
    ("cv_t_block_3") and say nothing; the chain of the `name` attributes does.

    Args:
        source: The file.
        start, size: Where the HDF5 file lies in it, in bytes.

    Raises:
        CheckpointError: If it is damaged, or is not laid out so.
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


def _walk_h5(source: Source, file: h5py.File, region: tuple[int, int]) -> dict[str, Tensor]:
    roots = [name for name in _H5_ROOTS if name in file]
    if not roots:
        names = ", ".join(shown(name) for name in itertools.islice(file, 5)) or "nothing"
        raise source.error(
            f"an HDF5 file, but not the weights of a functional or sequential Keras 3 model: it "
            f"holds {names}, and no layers"
        )
    tensors: dict[str, Tensor] = {}
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


def _h5_tensor(source: Source, name: str, dataset: h5py.Dataset, region: tuple[int, int]) -> Tensor:
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
    info = TensorInfo(dataset.shape, supported_dtype(source, name, dtype_name))
    offset, size = dataset.id.get_offset() or 0, dataset.id.get_storage_size()
    tensor = place_tensor(source, name, info, (region[0] + offset, region[1]))
    if tensor.nbytes != size or (size and not offset):
        raise source.error(f"tensor {shown(name)} has {size} bytes of data, not {tensor.nbytes}")
    return tensor
