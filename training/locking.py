"""The lock of a folder that one process at a time may write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from training.config import ConfigError

NAME = "lock"

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def print_warning(message: str) -> None:
    print(f"Warning: {message}", file=sys.stderr, flush=True)


class FolderLock:
    """Keeps other processes from writing the same folder: `with FolderLock(folder): ...`.

    The lock is the operating system's, on the file `lock` in the folder: it is free as soon as its
    process is dead, however it died. A file system without locks gives a warning, and no protection.

    Args:
        folder: Made if there is none.
        warn: Is told if there are no locks.
        option: Of the command line, which says where the folder is.

    Raises:
        ConfigError: On entering, if another process has the lock, or the folder can't be written.
    """

    def __init__(
        self,
        folder: Path,
        warn: Callable[[str], None] = print_warning,
        option: str = "--run-dir",
    ):
        self._path = folder / NAME
        self._warn = warn
        self._option = option

    def __enter__(self) -> None:
        folder = self._path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._locked()
            with contextlib.suppress(OSError):  # a full disk, which others will tell of
                self._file.truncate(0)
                self._file.write(f"process {os.getpid()} on {socket.gethostname()}")
                self._file.flush()
        except BlockingIOError:
            other = ""
            with contextlib.suppress(OSError):  # it may just have ended
                other = self._path.read_text(encoding="utf-8")
            raise ConfigError(
                f"{folder} is being written by {other or 'another process'}. Wait for its end, stop "
                f"it, or choose another {self._option}."
            ) from None
        except OSError as error:
            raise ConfigError(f"The folder {folder} can't be used: {error}") from error

    def _locked(self) -> TextIO:
        """Opens and locks the file; BlockingIOError if another process has it."""
        while True:
            file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115 - open as long as locked
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    file.close()
                    raise
                self._warn(
                    f"{self._path.parent} can't be locked: start nothing else that writes there"
                )
            # The one who had it before may have removed the file since we opened it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                    return file
            file.close()

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # what could not be written then cannot be now
            self._file.close()
