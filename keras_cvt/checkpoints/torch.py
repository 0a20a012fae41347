"""torch's zip checkpoints."""

from __future__ import annotations

import itertools
import zipfile

from keras_cvt.checkpoints import torch_pickle
from keras_cvt.checkpoints.archive import zip_record, zip_text
from keras_cvt.checkpoints.source import (
    SUPPORTED,
    CheckpointError,
    Record,
    Source,
    Tensor,
    TensorInfo,
    place_tensor,
    shown,
    supported_dtype,
)


def index_torch(source: Source, members: dict[str, zipfile.ZipInfo]) -> dict[str, Tensor]:
    """The tensors of a torch checkpoint by name, in the order of its state dict.

    Args:
        source: The file.
        members: What is in its zip archive.

    Raises:
        CheckpointError: If it is no checkpoint, is damaged, or asks for anything but tensors.
    """
    root = _root(source, members)
    try:
        state = torch_pickle.state_dict(_text(source, members[f"{root}/data.pkl"]))
    except CheckpointError:
        raise
    except ValueError as error:
        raise source.error(str(error)) from error

    records: dict[str, Record] = {}
    tensors = {}
    for name, tensor in state.items():
        key = tensor.storage.key
        if key not in records:
            member = members.get(f"{root}/data/{key}")
            if member is None:
                raise source.error(f"tensor {shown(name)}: its data, {shown(key)}, is missing")
            records[key] = zip_record(source, member)
        tensors[name] = _placed(source, name, tensor, records[key])
    _check_overlaps(source, list(records.values()))
    return tensors


def _root(source: Source, members: dict[str, zipfile.ZipInfo]) -> str:
    """The folder in which torch has put everything; it is little-endian and no TorchScript."""
    roots = [name.partition("/")[0] for name in members if name.partition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        names = ", ".join(shown(name) for name in list(members)[:5]) or "nothing"
        raise source.error(f"a zip archive, but no checkpoint: it holds {names}; {SUPPORTED}")
    (root,) = roots
    if f"{root}/constants.pkl" in members:
        raise source.error("a TorchScript archive: save the module's state_dict() instead")
    if f"{root}/byteorder" in members:
        order = _text(source, members[f"{root}/byteorder"])
        if order != b"little":
            raise source.error(
                f"its byte order is {shown(order.decode('latin1'))}: only little-endian is supported"
            )
    return root


def _text(source: Source, member: zipfile.ZipInfo) -> bytes:
    return zip_text(source, member, torch_pickle.MAX_BYTES)


def _placed(source: Source, name: str, tensor: torch_pickle.TorchTensor, record: Record) -> Tensor:
    """Where in the file a tensor lies, whose storage is the record."""
    storage = tensor.storage
    itemsize = 1  # of bytes without a type
    if storage.dtype is not None:
        itemsize = supported_dtype(source, name, storage.dtype).itemsize
    if storage.numel * itemsize != record.size:
        raise source.error(
            f"tensor {shown(name)}: its data has {record.size} bytes, not the "
            f"{storage.numel} x {itemsize} that it should have"
        )
    info = TensorInfo(tensor.shape, supported_dtype(source, name, tensor.dtype))
    region = (record.start + tensor.offset * info.dtype.itemsize, record.start + record.size)
    return place_tensor(source, name, info, region, tensor.strides, record)


def _check_overlaps(source: Source, records: list[Record]) -> None:
    records.sort(key=lambda record: record.start)
    for one, other in itertools.pairwise(records):
        if one.start + one.size > other.start:
            raise source.error(f"{shown(one.name)} and {shown(other.name)} overlap in the archive")
