"""The safetensors format."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from keras_cvt._files import replacing
from keras_cvt.checkpoints.checkpoint import Checkpoint
from keras_cvt.checkpoints.source import (
    SAFETENSORS_DTYPES,
    SAFETENSORS_TAGS,
    CheckpointError,
    Source,
    Tensor,
    TensorInfo,
    place_tensor,
    shown,
    supported_dtype,
)

# Bounds on what is parsed in Python; the tables of a model with 10,000 tensors stay far below them.
_MAX_SAFETENSORS_HEADER = 16 << 20


def index_safetensors(source: Source) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, in the order of their data.

    Raises:
        CheckpointError: If the file is damaged, or has a dtype that is not supported.
    """
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
        dtype = supported_dtype(source, name, SAFETENSORS_DTYPES.get(spec["dtype"], spec["dtype"]))
        info = TensorInfo(tuple(spec["shape"]), dtype)
        tensors[name] = place_tensor(source, name, info, (start, end))
    return tensors


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name occurs twice in its header")
    return result


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
        if dtype.name not in SAFETENSORS_TAGS:
            raise CheckpointError(f"{path}: tensor {shown(name)}: no safetensors dtype for {dtype}")
        start, end = end, end + math.prod(shape) * dtype.itemsize
        tag = SAFETENSORS_TAGS[dtype.name]
        header[name] = {"dtype": tag, "shape": list(shape), "data_offsets": [start, end]}
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{path}: a name is not valid Unicode: {error}") from error
    text += b" " * (-len(text) % 8)

    with replacing(path, durable=True) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            array = tensors[name]
            if _info({name: array}, name) != infos[name]:
                raise CheckpointError(f"{path}: tensor {shown(name)} changed while it was written")
            array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            file.write(array.reshape(-1).view(np.uint8))


def _info(tensors: Mapping[str, np.ndarray], name: str) -> TensorInfo:
    if isinstance(tensors, Checkpoint):
        return tensors.info(name)
    array = tensors[name]
    if not isinstance(array, np.ndarray):
        raise CheckpointError(
            f"tensor {shown(name)} is no numpy array but a {type(array).__name__}"
        )
    return TensorInfo(array.shape, array.dtype)
