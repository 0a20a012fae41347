"""What a run keeps of itself, so that it can be stopped at any time.

Nothing here imports TensorFlow: a checkpoint is arrays by name and some JSON, as two plain files:

    step-00001234.safetensors   the arrays
    step-00001234.json          step, state, and the size and SHA-256 of the arrays' file

The JSON file is written last. A checkpoint counts only if it is there, has its own checksum right,
and the arrays' file is the one it describes: whatever is killed or fails while writing, the
checkpoints before it stay what they were.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from keras_cvt._files import PREFIX, json_text, remove, replacing
from training.config import ConfigError
from training.locking import print_warning

_FORMAT = 1

# A step saved again gets the other of two data files: its JSON file, renamed in one step, says which.
_FILE = re.compile(r"step-(?P<step>[0-9]{8,})(-2)?\.(json|safetensors)")

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_FLOAT = "!float"

_NO_FILE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR)  # there is none, or something else

_TAGS = {
    **{np.dtype(f"int{bits}"): f"I{bits}" for bits in (8, 16, 32, 64)},
    **{np.dtype(f"uint{bits}"): f"U{bits}" for bits in (8, 16, 32, 64)},
    **{np.dtype(f"float{bits}"): f"F{bits}" for bits in (16, 32, 64)},
    np.dtype(bool): "BOOL",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}

_DTYPES = {tag: dtype for dtype, tag in _TAGS.items()}


class RunCheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or can't be stored; one line."""


class NewerError(RunCheckpointError):
    """A checkpoint in a format that a newer version writes; one line."""


class DiskError(OSError):
    """A file of a run that the disk doesn't take or give; one line. The others are as they were."""

    def __str__(self) -> str:
        return self.strerror  # without the number, which is for programs


@dataclasses.dataclass(frozen=True)
class RunCheckpoint:
    """All that the rest of a run depends on.

    Attributes:
        step: how many optimizer steps are done.
        arrays: every state by name: weights, statistics, the optimizer's, seeds, metrics. Any shape,
            also (); integers, floats up to 64 bits, bfloat16 or bool.
        state: what else there is, such as the history; anything that JSON can hold.
    """

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


class RunCheckpoints:
    """The checkpoints of a run, in a folder. One process writes (see `FolderLock`), any may read.

    Args:
        folder: made when the first checkpoint is.
        keep: how many of the latest are kept, at least 1.
        warn: is told of each damaged checkpoint that `latest` passes over.

    Attributes:
        folder: That folder.
    """

    def __init__(self, folder: Path, keep: int, warn: Callable[[str], None] = print_warning):
        self.folder = folder
        self._keep = keep
        self._warn = warn

    def save(self, checkpoint: RunCheckpoint) -> None:
        """Writes a checkpoint; when it is complete and on the disk, removes those beyond `keep`.

        An earlier checkpoint of the same step is replaced. Needs next to no memory of its own.

        Raises:
            DiskError: if there is no room for it, or it can't be written. Nothing of it is left then.
            RunCheckpointError: if an array is of a dtype that can't be stored.
            TypeError: if `checkpoint.state` isn't JSON.
        """
        step = checkpoint.step
        # What can be wrong with the content is found before anything is written. And the state is
        # taken once, for the checksum and the file: other threads may go on changing what it has.
        state = json_text(_encoded(checkpoint.state))
        record = {"format": _FORMAT, "step": step, "state": json.loads(state)}
        size = len(_header(checkpoint.arrays)) + sum(a.nbytes for a in checkpoint.arrays.values())
        needed = size + len(state) + (1 << 20)  # and some for the folder
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            if shutil.disk_usage(self.folder).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            names = [f"step-{step:08d}.safetensors", f"step-{step:08d}-2.safetensors"]
            record["data"] = next(
                (name for name in names if not (self.folder / name).exists()), names[0]
            )
            with (
                replacing(self.folder / record["data"], durable=True) as temporary,
                open(temporary, "wb") as file,
            ):
                record["sha256"] = write_arrays(file, checkpoint.arrays)
            record["size"] = size
            record["checksum"] = _checksum(record)
            with replacing(self._json(step), durable=True) as temporary:
                temporary.write_text(json_text(record), encoding="utf-8")
        except OSError as error:
            raise self._disk_error(step, needed, error) from error
        finally:
            with contextlib.suppress(OSError):
                self._remove_leftovers()

        try:
            self._remove_old(step)
        except OSError as error:  # nothing is lost by that: the next time will do
            self._warn(f"The checkpoints before step {step} can't be removed: {error}")

    def _remove_old(self, step: int) -> None:
        # Any later ones were damaged, for the run has gone on from an earlier one: they don't count,
        # and stay until the run gets there.
        for old in [other for other in self.steps() if other <= step][: -self._keep]:
            self._json(old).unlink()
        self._remove_leftovers()

    def latest(self) -> RunCheckpoint | None:
        """The newest checkpoint that is complete and undamaged; None if there is none.

        Raises:
            DiskError: if one can't be read now, which doesn't mean that it is damaged: a run that
                began anew for that would throw it away.
            ConfigError: if a newer version has written one, for the same reason.
        """
        for step in self._found():
            try:
                return self.read(step)
            except NewerError as error:
                raise ConfigError(
                    f"{error}. Use that version, or begin a new run in another --run-dir."
                ) from None
            except RunCheckpointError as error:
                self._warn(f"{error}. An earlier checkpoint is looked for.")
        return None

    def read(self, step: int) -> RunCheckpoint:
        """The checkpoint of exactly this step.

        Raises:
            RunCheckpointError: if it isn't there, isn't complete, or is damaged.
            DiskError: if it can't be read.
        """
        record = self._record(step)
        path = self._data(step, record)
        try:
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                    raise RunCheckpointError(f"{path} is damaged: its SHA-256 has changed")
                file.seek(0)
                return RunCheckpoint(step, read_arrays(file), _decoded(record["state"]))
        except OSError as error:
            raise _unreadable(path, error) from error

    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint, ascending. Their data isn't read for that.

        Raises:
            DiskError: if that can't be read.
        """
        complete = []
        for step in self._found():
            with contextlib.suppress(RunCheckpointError):
                self._data(step, self._record(step))
                complete.append(step)
        return complete[::-1]

    def _found(self) -> list[int]:
        """The steps of which there is any file, the newest first."""
        try:
            names = os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise DiskError(
                error.errno, f"{self.folder} can't be read: {error.strerror}"
            ) from error
        matches = map(_FILE.fullmatch, names)
        return sorted({int(match["step"]) for match in matches if match}, reverse=True)

    def _json(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.json"

    def _record(self, step: int) -> dict[str, Any]:
        """The content of the JSON file, checked; RunCheckpointError if there is none."""
        path = self._json(step)
        try:
            record = json.loads(path.read_bytes())
            version, checksum = record["format"], record.pop("checksum", None)
        except FileNotFoundError:
            raise RunCheckpointError(
                f"{path} is missing: step {step} has no complete checkpoint"
            ) from None
        except OSError as error:
            raise _unreadable(path, error) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise RunCheckpointError(
                f"{path} is damaged: it isn't the JSON of a checkpoint"
            ) from None
        if isinstance(version, int) and version > _FORMAT:
            raise NewerError(
                f"{path} has format {version!r:.20}, and this version reads {_FORMAT}: a newer version "
                "wrote it"
            )
        if version != _FORMAT or checksum != _checksum(record) or record["step"] != step:
            raise RunCheckpointError(f"{path} is damaged: its checksum or step is wrong")
        return record

    def _data(self, step: int, record: dict[str, Any]) -> Path:
        """The arrays' file; RunCheckpointError if its size isn't right."""
        path = self.folder / record["data"]
        try:
            size = path.stat().st_size
        except OSError as error:
            raise _unreadable(path, error) from error
        if size != record["size"]:
            raise RunCheckpointError(f"{path} is damaged: it has {size} of {record['size']} bytes")
        return path

    def _remove_leftovers(self) -> None:
        """Removes what belongs to no checkpoint: of processes that were killed, or just replaced."""
        for path in self.folder.glob(f"{PREFIX}step-*"):
            remove(path)
        for path in self.folder.glob("step-*.safetensors"):
            match = _FILE.fullmatch(path.name)
            if match and not self._is_needed(path.name, int(match["step"])):
                path.unlink()

    def _is_needed(self, name: str, step: int) -> bool:
        if not self._json(step).exists():
            return False
        try:
            return self._record(step)["data"] == name
        except (
            RunCheckpointError,
            DiskError,
        ):  # of a newer version, or damaged: not ours to throw away
            return True

    def _disk_error(self, step: int, needed: int, error: OSError) -> DiskError:
        problem = error.strerror or str(error)
        if error.errno in _NO_SPACE and self.folder.exists():
            megabytes = f"{needed / 1e6:,.1f} MB are needed"
            free = f"{shutil.disk_usage(self.folder).free / 1e6:,.1f} MB available"
            problem = f"no space ({problem}): {megabytes}, {free}"
        try:
            kept = self.steps()
            rest = (
                f"The checkpoint of step {kept[-1]} is kept" if kept else "There is no earlier one"
            )
        except DiskError:
            rest = "Earlier ones are kept"
        return DiskError(
            error.errno,
            f"The checkpoint of step {step} can't be written to {self.folder}: {problem}. {rest}.",
        )


def _unreadable(path: Path, error: OSError) -> RunCheckpointError | DiskError:
    """The error for a file that can't be read: it is not as it was written, or the disk fails now."""
    said = f"{path} can't be read: {error.strerror}"
    if error.errno in _NO_FILE:
        return RunCheckpointError(said)
    return DiskError(error.errno, said)


def _checksum(record: dict[str, Any]) -> str:
    # Also of records of earlier versions, which may have NaN.
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _encoded(value: Any) -> Any:
    """A state as strict JSON can have it: with {"!float": "nan"} for a number that is not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.copy().items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    return value


def _decoded(value: Any) -> Any:
    """Undoes `_encoded`."""
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_FLOAT}:
        return float(value[_FLOAT])
    return {key: _decoded(item) for key, item in value.items()}


def _order(arrays: dict[str, np.ndarray]) -> list[str]:
    """Wide elements first: each array is aligned then."""
    return sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))


def _header(arrays: dict[str, np.ndarray]) -> bytes:
    header, end = {}, 0
    for name in _order(arrays):
        dtype, shape = arrays[name].dtype, arrays[name].shape
        tag = _TAGS.get(dtype.newbyteorder("="))
        if tag is None or name == "__metadata__":
            raise RunCheckpointError(
                f"A safetensors file can't have an array {name!r} of dtype {dtype}"
            )
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_arrays(file: BinaryIO, arrays: dict[str, np.ndarray]) -> str:
    """Writes arrays as safetensors, one after the other; returns the SHA-256 of all that is written.

    Raises:
        RunCheckpointError: for a dtype that the format doesn't have; nothing has been written then.
    """
    digest = hashlib.sha256()
    pieces = (
        # Little-endian and contiguous, as nearly all arrays are: those aren't copied.
        arrays[name]
        .astype(arrays[name].dtype.newbyteorder("<"), order="C", copy=False)
        .reshape(-1)
        .view(np.uint8)
        for name in _order(arrays)
    )
    for piece in itertools.chain([_header(arrays)], pieces):
        file.write(piece)
        digest.update(piece)
    return digest.hexdigest()


def read_arrays(file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file that is known to be undamaged, each read straight into place."""
    (length,) = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    arrays = {}
    for name, entry in header.items():
        arrays[name] = np.empty(entry["shape"], _DTYPES[entry["dtype"]])
        file.seek(8 + length + entry["data_offsets"][0])
        file.readinto(arrays[name].reshape(-1).view(np.uint8))
    return arrays
