"""The memory that something takes at its peak."""

import contextlib
import pathlib
import types

import pytest

_PROCESS = pathlib.Path("/proc/self")


def _bytes(name):
    lines = (_PROCESS / "status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


@contextlib.contextmanager
def peak():
    """Gives an object whose `bytes` say, after the context, how much was taken at most."""
    result = types.SimpleNamespace(bytes=None)
    try:
        (_PROCESS / "clear_refs").write_text("5")  # the peak begins anew
        before = _bytes("VmRSS:")
    except OSError:
        pytest.skip("Only Linux tells a process its peak of memory, and not everywhere.")
    yield result
    result.bytes = _bytes("VmHWM:") - before
