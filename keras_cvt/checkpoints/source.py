"""A checkpoint's file, and where in it a tensor's bytes are."""

from __future__ import annotations

import itertools
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

MAX_RANK = 32

SUPPORTED = (
    "supported are safetensors, torch zip checkpoints (.pth, .pt, .bin), and .weights.h5 and .keras "
    "files of Keras 3"
)

SAFETENSORS_DTYPES = {
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

SAFETENSORS_TAGS = {dtype: tag for tag, dtype in SAFETENSORS_DTYPES.items()}

_DTYPES = {*SAFETENSORS_TAGS, "complex128"}


class CheckpointError(ValueError):
    """A file that is not a checkpoint, is damaged, or asks for more than its tensors."""


class TensorInfo(NamedTuple):
    """What is known of a tensor before its data is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Record(NamedTuple):
    """Bytes of the file that have a checksum of their own: a member of a zip archive."""

    name: str
    start: int
    size: int
    crc: int


class Tensor(NamedTuple):
    """A tensor's place in the file, from `start`, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]
    start: int
    nbytes: int
    record: Record | None = None


class Source:
    """An open file of known size; every error that it makes names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by the Checkpoint
        self.size = os.fstat(self.file.fileno()).st_size

    def error(self, problem: str) -> CheckpointError:
        """What to raise if the file is not as it should be."""
        return CheckpointError(f"{self.path}: {problem}")

    def fill(self, start: int, buffer: memoryview) -> None:
        """Reads bytes from `start` on until the buffer is full."""
        self.file.seek(start)
        done = 0
        while done < len(buffer):
            count = self.file.readinto(buffer[done:])
            if not count:
                raise self.error(f"the file ends before byte {start + len(buffer)}; is it cut off?")
            done += count

    def read(self, start: int, size: int) -> bytearray:
        """The `size` bytes from `start` on."""
        data = bytearray(size)
        self.fill(start, memoryview(data))
        return data

    def check(self, record: Record) -> None:
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


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of an array in C order."""
    steps = itertools.accumulate(reversed(shape[1:]), int.__mul__, initial=1)
    return tuple(steps)[::-1] if shape else ()


def supported_dtype(source: Source, name: str, dtype: str) -> np.dtype:
    """NumPy's dtype of that name.

    Args:
        source: The file, and `name` that of the tensor, for the error.

    Raises:
        CheckpointError: If it is not supported.
    """
    if dtype not in _DTYPES:
        raise source.error(
            f"tensor {shown(name)} has the dtype {shown(dtype)}, which is not supported"
        )
    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def place_tensor(
    source: Source,
    name: str,
    info: TensorInfo,
    region: tuple[int, int],
    strides: tuple[int, ...] | None = None,
    record: Record | None = None,
) -> Tensor:
    """A checked `Tensor`; it starts with its `region` and may not leave it. Strides are elements."""
    (shape, dtype), (start, end) = info, region
    # numpy refuses sizes whose product overflows, even where one of them is 0.
    if len(shape) > MAX_RANK or math.prod(max(size, 1) for size in shape) >= 1 << 56:
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
    return Tensor(shape, dtype, strides, start, nbytes, record)


def shown(text: object) -> str:
    """A name from a file, fit for an error message: one short line without control characters."""
    text = repr(text if type(text) is str and len(text) <= 200 else str(text)[:200] + "...")
    return text[1:-1]
