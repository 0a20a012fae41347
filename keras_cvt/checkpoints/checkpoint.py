"""The tensors of an open checkpoint file."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np

from keras_cvt.checkpoints.source import CheckpointError, Record, Source, Tensor, TensorInfo, shown


class Checkpoint(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint file by name, each read when it is asked for.

    Made by `read`. Every access reads the tensor again and gives a new array; keep what you need.
    Closes its file in a `with` statement, by `close()`, or when it is garbage. Several threads must
    not read from one object at the same time.

    Attributes:
        path: The file.
        format: `"safetensors"`, `"torch"` or `"keras-h5"`.
        config: Of a `.keras` file, what Keras writes about its model, as `json` reads it; None for
            other files, which have weights alone.
    """

    def __init__(
        self,
        source: Source,
        format: str,
        tensors: dict[str, Tensor],
        config: dict[str, Any] | None = None,
    ) -> None:
        self.path = source.path
        self.format = format
        self.config = config
        self._source = source
        self._tensors = tensors
        self._checked: set[Record] = set()
        self._finalizer = weakref.finalize(self, source.file.close)

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        if not self._finalizer.alive:
            raise CheckpointError(f"{self.path} is closed")
        try:
            return self._read(tensor)
        except CheckpointError as error:
            raise CheckpointError(f"{error}, in the tensor {shown(name)}") from None

    def _read(self, tensor: Tensor) -> np.ndarray:
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
