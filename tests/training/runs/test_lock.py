"""One process at a time writes to a run (training/runs/lock.py)."""

from __future__ import annotations

import errno
import os
import signal
import socket

import programs
import pytest
from training.runs.lock import RunLock

from training.config import ConfigError
from training.runs import lock

HOLDS_LOCK = """
import sys, time
from pathlib import Path
from training.runs.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(7200)
"""


def test_two_processes_cannot_write_one_run(tmp_path):
    folder = tmp_path / "runs" / "one"
    other = programs.start("-c", HOLDS_LOCK, folder)
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError) as caught, RunLock(folder):
            pass
        message = str(caught.value)
        assert f"process {other.pid} on {socket.gethostname()}" in message
        assert str(folder) in message and "--run-dir" in message and "\n" not in message
        with RunLock(tmp_path / "runs" / "another"):
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate()
    with RunLock(folder):
        assert (folder / "lock").read_text().startswith(f"process {os.getpid()} on ")
    assert list(folder.iterdir()) == []


def test_the_lock_is_free_after_an_error(tmp_path):
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path), pytest.raises(ConfigError, match="is being written"):
        RunLock(tmp_path).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_is_on_the_file_that_is_there(tmp_path, monkeypatch):
    flock, owner = lock.fcntl.flock, RunLock(tmp_path)
    owner.__enter__()

    def late(*args):  # the owner ends between our opening and our locking
        monkeypatch.undo()
        owner.__exit__()
        flock(*args)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with RunLock(tmp_path), pytest.raises(ConfigError, match="is being written"):
        RunLock(tmp_path).__enter__()


def test_a_folder_that_cannot_be_locked(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="file can't be used: .*exists"):
        RunLock(tmp_path / "file").__enter__()

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    warnings = []
    with RunLock(tmp_path, warnings.append):
        assert len(warnings) == 1 and "can't be locked" in warnings[0]
