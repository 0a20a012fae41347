"""Starts the programs of `training` as a user does, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]

# How a run is started on each kind of devices.
TRAIN_ON = {
    "one_device": ["-m", "training.train"],
    "mirrored": ["-m", "training.train", "--strategy", "mirrored", "--set", "logical_cpus=2"],
    "two_processes": ["-m", "training.supervise", "--workers", "2", "--backoff", "0.2", "--"],
}


def start(*arguments: str, **options) -> subprocess.Popen:
    """Starts Python in the checkout; what it says goes into one pipe, if `options` say no other."""
    path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": path},
        text=True,
        **pipes,
    )


def run(*arguments: str) -> str:
    """Runs Python in the checkout to a good end; returns what it said."""
    with start(*arguments) as process:
        try:
            said, _ = process.communicate(timeout=500)
        finally:
            process.kill()
    assert process.returncode == 0, said
    return said


def settings(*texts: str) -> list[str]:
    """`--set` for each of the texts, "key=value"."""
    return [part for text in texts for part in ("--set", text)]
