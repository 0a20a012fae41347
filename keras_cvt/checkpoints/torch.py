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
    supported_dtype,
)
from keras_cvt.checkpoints.torch_pickle import shown


def index_torch(source: Source, members: dict[str, zipfile.ZipInfo]) -> dict[str, Tensor]:
    roots = [name.partition("/")[0] for name in members if name.partition("/")[2] == "data.pkl"]
    if len(roots) != 1:
        names = ", ".join(shown(name) for name in list(members)[:5]) or "nothing"
        raise source.error(f"a zip archive, but no checkpoint: it holds {names}; {SUPPORTED}")
    root = roots[0]
    if f"{root}/constants.pkl" in members:
        raise source.error("a TorchScript archive: save the module's state_dict() instead")
    if f"{root}/byteorder" in members:
        order = zip_text(source, members[f"{root}/byteorder"])
        if order != b"little":
            raise source.error(
                f"its byte order is {shown(order.decode('latin1'))}: only little-endian is supported"
            )
    try:
        state = torch_pickle.state_dict(zip_text(source, members[f"{root}/data.pkl"]))
    except CheckpointError:
        raise
    except ValueError as error:
        raise source.error(str(error)) from error

    records: dict[str, Record] = {}
    tensors = {}
    for name, tensor in state.items():
        storage = tensor.storage
        if storage.key not in records:
            member = members.get(f"{root}/data/{storage.key}")
            if member is None:
                raise source.error(
                    f"tensor {shown(name)}: its data, {shown(storage.key)}, is missing"
                )
            records[storage.key] = zip_record(source, member)
        record = records[storage.key]
        itemsize = (
            1 if storage.dtype is None else supported_dtype(source, name, storage.dtype).itemsize
        )
        if storage.numel * itemsize != record.size:
            raise source.error(
                f"tensor {shown(name)}: its data has {record.size} bytes, not the "
                f"{storage.numel} x {itemsize} that it should have"
            )
        info = TensorInfo(tensor.shape, supported_dtype(source, name, tensor.dtype))
        region = (record.start + tensor.offset * info.dtype.itemsize, record.start + record.size)
        tensors[name] = place_tensor(source, name, info, region, tensor.strides, record)
    ordered = sorted(records.values(), key=lambda record: record.start)
    for one, other in itertools.pairwise(ordered):
        if one.start + one.size > other.start:
            raise source.error(f"{shown(one.name)} and {shown(other.name)} overlap in the archive")
    return tensors
