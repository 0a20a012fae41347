"""Any checkpoint file -> {name: numpy array}. No pickle is ever run.

Each format has one function that turns the file's own index into a table of `Tensor`: where a
tensor's bytes lie in the file, and how to look at them. Everything that can be wrong with an index
is found there, before any data is read. After that all formats are alike: a tensor is read straight
from the file into its array when it is asked for, so a conversion needs the memory of its largest
tensor, and no allocation is larger than the file.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from keras_cvt.checkpoints.archive import zip_members, zip_record
from keras_cvt.checkpoints.checkpoint import Checkpoint
from keras_cvt.checkpoints.keras_h5 import H5_SIGNATURE, index_h5
from keras_cvt.checkpoints.safetensors import index_safetensors
from keras_cvt.checkpoints.source import SUPPORTED, CheckpointError, Source, Tensor
from keras_cvt.checkpoints.torch import index_torch


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
    source = Source(path)
    try:
        format, tensors = _index(source)
        return Checkpoint(source, format, tensors)
    except BaseException:
        source.file.close()
        raise


def _index(source: Source) -> tuple[str, dict[str, Tensor]]:
    head = bytes(source.read(0, min(source.size, 64)))
    if head.startswith(b"PK\x03\x04"):
        members = zip_members(source)
        if "model.weights.h5" in members:
            record = zip_record(source, members["model.weights.h5"])
            # The C library that parses the file is not proof against damage; the checksum is.
            source.check(record)
            return "keras-h5", index_h5(source, record.start, record.size)
        return "torch", index_torch(source, members)
    if head.startswith(H5_SIGNATURE):
        return "keras-h5", index_h5(source, 0, source.size)
    if head[8:9] == b"{":
        return "safetensors", index_safetensors(source)
    raise source.error(_what_it_is(head))


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
