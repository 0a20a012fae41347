"""Any checkpoint file -> {name: numpy array}. No pickle is ever run.

Each format has one function that turns the file's own index into a table of `Tensor`: where a
tensor's bytes lie in the file, and how to look at them. Everything that can be wrong with an index
is found there, before any data is read. After that all formats are alike: a tensor is read straight
from the file into its array when it is asked for, so a conversion needs the memory of its largest
tensor, and no allocation is larger than the file.
"""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

from keras_cvt.checkpoints.archive import zip_members, zip_record, zip_text
from keras_cvt.checkpoints.checkpoint import Checkpoint
from keras_cvt.checkpoints.keras_h5 import H5_SIGNATURE, index_h5
from keras_cvt.checkpoints.safetensors import index_safetensors
from keras_cvt.checkpoints.source import SUPPORTED, CheckpointError, Source
from keras_cvt.checkpoints.torch import index_torch

_MAX_CONFIG = 64 << 20  # of CvT-W24, Keras writes 150 KB


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint file. What it is, is seen from its content; its name does not matter.

    The names are those of the file, except that tensors of a Keras file are named after the layers
    they belong to, as in `"stage1_blocks_0/attn/proj_q/0"`, where the number is the variable's place
    in its layer.

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
    source = Source(path)
    try:
        return _indexed(source)
    except BaseException:
        source.file.close()
        raise


def _indexed(source: Source) -> Checkpoint:
    head = bytes(source.read(0, min(source.size, 64)))
    if head.startswith(b"PK\x03\x04"):
        members = zip_members(source)
        if "model.weights.h5" in members:
            record = zip_record(source, members["model.weights.h5"])
            # The C library that parses the file is not proof against damage; the checksum is.
            source.check(record)
            tensors = index_h5(source, record.start, record.size)
            return Checkpoint(source, "keras-h5", tensors, _config(source, members))
        return Checkpoint(source, "torch", index_torch(source, members))
    if head.startswith(H5_SIGNATURE):
        return Checkpoint(source, "keras-h5", index_h5(source, 0, source.size))
    if head[8:9] == b"{":
        return Checkpoint(source, "safetensors", index_safetensors(source))
    raise source.error(_what_it_is(head))


def _config(source: Source, members: dict[str, zipfile.ZipInfo]) -> dict[str, Any]:
    """What a `.keras` file says of its model."""
    if "config.json" not in members:
        raise source.error("it has the weights of a Keras model, but no config.json beside them")
    try:
        config = json.loads(zip_text(source, members["config.json"], _MAX_CONFIG))
    except CheckpointError:
        raise
    except (ValueError, RecursionError) as error:
        raise source.error(f"its config.json is damaged: {error}") from error
    if not isinstance(config, dict):
        raise source.error("its config.json does not describe a model")
    return config


def _what_it_is(head: bytes) -> str:
    """Says what a file is that is no checkpoint."""
    if not head:
        return f"the file is empty; {SUPPORTED}"
    if head.startswith(b"version https://git-lfs"):
        return "this is a git-lfs pointer, not the weights: fetch them with `git lfs pull`"
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "this is an HTML page, not weights: did the download ask for a login?"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "this is a bare pickle, as torch wrote before version 1.6: re-save it with torch.save "
            "in its default zip format"
        )
    return f"unknown format, it starts with {head[:16]!r}; {SUPPORTED}"
