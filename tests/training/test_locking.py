"""Two processes can't write the same folder (training/locking.py)."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess

import programs
import pytest

from training import locking
from training.config import ConfigError
from training.locking import FolderLock

HOLDS_LOCK = """
import sys, time
from pathlib import Path

from training.locking import FolderLock

with FolderLock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(7200)
"""


def test_two_processes_cannot_write_one_folder(tmp_path):
    folder = tmp_path / "runs" / "one"
    other = programs.start("-c", HOLDS_LOCK, str(folder), stderr=subprocess.PIPE)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError) as caught, FolderLock(folder):
            pass
        message = str(caught.value)
        assert f"process {other.pid} on {socket.gethostname()}" in message
        assert str(folder) in message and "another --run-dir" in message and "\n" not in message
        with FolderLock(tmp_path / "runs" / "another"):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    with FolderLock(folder):
        assert (folder / "lock").read_text().startswith(f"process {os.getpid()} on ")
    assert [*folder.iterdir()] == []


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), FolderLock(tmp_path):
        raise KeyError
    with FolderLock(tmp_path), pytest.raises(ConfigError, match="is being written"):
        FolderLock(tmp_path).__enter__()
    assert [*tmp_path.iterdir()] == []


def test_the_lock_is_on_the_file_that_is_there(tmp_path, monkeypatch):
    flock, owner = locking.fcntl.flock, FolderLock(tmp_path)
    owner.__enter__()

    def late(*args):  # the owner ends between our opening and our locking
        monkeypatch.undo()
        owner.__exit__()
        flock(*args)

    monkeypatch.setattr(locking.fcntl, "flock", late)
    with FolderLock(tmp_path), pytest.raises(ConfigError, match="is being written"):
        FolderLock(tmp_path).__enter__()


def test_a_folder_that_cannot_be_locked(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="file can't be used: .*exists"):
        FolderLock(tmp_path / "file").__enter__()

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locking.fcntl, "flock", no_locks)
    warnings = []
    with FolderLock(tmp_path, warnings.append):
        assert len(warnings) == 1 and "can't be locked" in warnings[0]
