"""Files that are complete or not there at all."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

PREFIX = ".partial-"

# What a disk, its file system or the limit of open files fails with, however right the path is.
_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE),
    *(errno.EIO, errno.EROFS, errno.ESTALE),
)


# Open files under names of their own: of a file that standard output goes to, even if it is regular,
# the shell has the old content.
_STREAM = re.compile("/dev/std(out|err)|/dev/fd/.*|/proc/.*")


def is_disk_fault(error: BaseException) -> bool:
    """Whether an error says that a disk is full or fails, or that too many files are open.

    Besides OSError, that can be one of TensorFlow or of HDF5, of which only the words are known.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK
    said = str(error)
    return any(os.strerror(number) in said for number in _DISK)


def check_folder(path: Path) -> None:
    """Checks that a file can be written at `path`, before the work whose result it will hold.

    Raises:
        FileNotFoundError: If its folder does not exist.
        PermissionError: If nothing may be written there.
    """
    if _is_stream(path):
        return
    folder = _target(path).absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to write {path.name} in.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path.name} can't be written: {folder} may not be written to.")


def check_file(path: Path) -> None:
    """Does what `check_folder` does, and also refuses a folder where the file would go.

    Raises:
        FileNotFoundError: If its folder does not exist.
        IsADirectoryError: If `path` is a folder.
    """
    check_folder(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; it must be a file.")


def check_new(path: Path) -> None:
    """Checks that there is nothing at `path` yet.

    Raises:
        FileExistsError: If there is.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} exists and is kept: remove it, or give another path.")


def _is_stream(path: Path) -> bool:
    """Whether `path` is no file that could be replaced, such as /dev/stdout, /dev/null or a pipe."""
    if _STREAM.fullmatch(str(path)):
        return True
    return path.exists() and not (path.is_file() or path.is_dir())


def _target(path: Path) -> Path:
    """The file that is meant by `path`, which may be a link to it."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool = True, durable: bool = False) -> Iterator[Path]:
    """Gives a temporary path to write a file or a folder to, and then moves it to `path`.

    Anyone who looks at `path`, even after a crash, sees the old content or the new, never a part of
    it. (A folder that was there is moved away just before: for a moment there is none.) If the body
    raises, the old content stays and nothing of the new is left. Whatever the body writes beside
    the temporary path moves with it, before it.

    Two processes may write the same path at once: the one that finishes last wins, whole. What a
    killed process left behind is removed by the next one that writes the same path.

    If `path` is a link, the file that it leads to is replaced, and the link stays. A device or a pipe,
    such as /dev/stdout, can't be replaced, and is written to as it is.

    Args:
        path: The file or folder to write, in a folder that exists.
        overwrite: Whether existing files may be replaced. Defaults to True.
        durable: Whether the content must have reached the disk, in case the power fails, before
            the body's `with` statement ends. Defaults to False.

    Raises:
        FileExistsError: If `path` exists, or comes into existence, and `overwrite` is False.
        FileNotFoundError: If the body writes nothing.
        OSError: If it can't be written.
    """
    path = Path(path)
    if not overwrite:
        check_new(path)
    elif _is_stream(path):
        yield path
        return
    path = _target(path)
    with _named(path), _workspace(path) as folder:
        written = folder / path.name
        yield written
        if not os.path.lexists(written):
            raise FileNotFoundError(f"Nothing was written to {path}.")
        parts = sorted(folder.iterdir(), key=lambda part: part == written)
        for part in parts:
            if not overwrite:
                check_new(path.with_name(part.name))
            if durable:
                _flush(part)
        for part in parts:
            move = _replace if overwrite else _place
            move(part, path.with_name(part.name))
        if durable:
            _sync_folder(path.parent)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names `path` in errors of what is written beside it, which means nothing to anybody."""
    beside = str(path.with_name(PREFIX))
    try:
        yield
    except OSError as error:
        # An error of `write` names no file.
        unnamed = error.filename is None and is_disk_fault(error)
        if unnamed or str(error.filename).startswith(beside):
            error.filename = str(path)
            del error.filename2  # where it was to be moved
        raise


def write_text(path: Path, text: str, *, overwrite: bool = True) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    with replacing(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any, **options: Any) -> str:
    """JSON as its standard has it, without NaN and infinity, which most readers refuse.

    Args:
        value: Dicts, lists, texts, numbers, booleans and None.
        **options: Of `json.dumps`, such as `indent`.

    Raises:
        ValueError: For a number that is not finite.
    """
    return json.dumps(value, allow_nan=False, **options)


def write_json(path: Path, value: Any, *, indent: int = 2) -> None:
    """Writes a JSON file, whole or not at all; takes and raises what `json_text` does."""
    write_text(path, json_text(value, indent=indent) + "\n")


def read_json(path: Path, kinds: tuple[type, ...] = (dict,)) -> Any:
    """Reads a JSON file.

    Args:
        kinds: What it may have: an object (dict), a list.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no JSON, or has something else.
    """
    text = path.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None
    if not isinstance(value, kinds):
        right = " or ".join({dict: "a JSON object", list: "a list"}[kind] for kind in kinds)
        raise ValueError(f"{path} must have {right}. Received a {type(value).__name__}.")
    return value


@contextlib.contextmanager
def _workspace(path: Path) -> Iterator[Path]:
    """A hidden, empty folder beside `path` that belongs to this process; it is removed in the end.

    It is on the same file system, so that moving its content out is one step. Its name is the same
    each time, so that what a killed process left is found; a lock of the operating system, which
    ends with its process, tells that from the folder of a process that is still writing.
    """
    if fcntl is None:
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=path.parent) as folder:
            yield Path(folder)
        return
    for number in itertools.count(1):
        folder = path.with_name(f"{PREFIX}{path.name}" + (f"-{number}" if number > 1 else ""))
        lock = _lock(folder)
        if lock is not None:
            break
    try:
        for left in folder.iterdir():
            remove(left)
        yield folder
    finally:
        # What can't be removed is found the next time; it must not hide why the body failed.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Makes a folder and locks it; the open folder, or None if another process has the lock."""
    while True:
        if os.path.lexists(folder) and not folder.is_dir():
            folder.unlink(missing_ok=True)  # earlier versions left files
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # the one who had it has just removed it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:  # a file system without locks
            return lock
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), os.stat(folder)):
                return lock
        os.close(lock)


def _replace(part: Path, destination: Path) -> None:
    """Moves a file or a folder to where something else may be."""
    old = None
    if part.is_dir() and os.path.lexists(destination):
        # Renaming replaces a file, but not a folder that has something in it.
        old = part.with_name("..replaced")
        os.rename(destination, old)
    try:
        os.replace(part, destination)
    except BaseException:
        if old is not None:
            os.rename(old, destination)
        raise


def _place(part: Path, destination: Path) -> None:
    """Moves a file or a folder to where nothing is; FileExistsError if something has come there."""
    if not part.is_dir():
        try:
            os.link(part, destination)  # unlike renaming, never replaces anything
            return
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            pass
    check_new(destination)
    os.rename(part, destination)


def remove(path: Path) -> None:
    """Removes a file or a folder with all that is in it; nothing happens if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file, or all files of a folder, are on the disk."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files:
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())


def _sync_folder(folder: Path) -> None:
    """Makes the renaming of files in a folder last, even if the power fails."""
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
