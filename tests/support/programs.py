"""Starts the programs of `training` as a user does, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
# Seconds. No test is to end within them: they stop only what would never end.
PATIENCE = 1800

# How a run is started on each kind of devices.
TRAIN_ON = {
    "one_device": ["-m", "training.train"],
    "mirrored": ["-m", "training.train", "--strategy", "mirrored", "--set", "logical_cpus=2"],
    "two_processes": ["-m", "training.supervise", "--workers", "2", "--backoff", "0.2", "--"],
}


def start(
    *arguments: str | Path, environment: dict[str, str] | None = None, **options
) -> subprocess.Popen:
    """Starts Python in the checkout.

    Args:
        arguments: Of the interpreter.
        environment: All variables of the new process, PYTHONPATH aside. Defaults to those of this
            process.
        options: Of `subprocess.Popen`. By default, what the process says goes into one pipe.
    """
    environment = dict(os.environ if environment is None else environment)
    path = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "cwd": CHECKOUT, **options}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)], env=environment, text=True, **options
    )


def finish(process: subprocess.Popen) -> str:
    """Waits for the good end of a process; returns what it said."""
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    return said


def run(*arguments: str | Path, **options) -> str:
    """Runs Python in the checkout to a good end; returns what it said."""
    return finish(start(*arguments, **options))


def settings(*texts: str) -> list[str]:
    """`--set` for each of the texts, "key=value"."""
    return [part for text in texts for part in ("--set", text)]
