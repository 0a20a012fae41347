"""A run of two processes that is killed again and again ends as one that nothing disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import programs
import pytest

from training.runs.run_checkpoints import RunCheckpoints

EPOCHS = 8
STEPS = EPOCHS * 5
SET = ["image_size=16", "dims=16", "depths=2", "heads=2", "patch=4,4,0", "drop_path_rate=0.5"]
SET += ["batch_size=256", f"epochs={EPOCHS}", "ema=0.9", "clip_norm=1", "checkpoint_steps=1"]

pytestmark = pytest.mark.slow


def start(run_dir: Path) -> subprocess.Popen:
    arguments = ["--config", "digits", *programs.settings(*SET), "--run-dir", str(run_dir)]
    return programs.start(*programs.TRAIN_ON["two_processes"], *arguments)


def workers(supervisor: subprocess.Popen) -> dict[int, int]:
    """The processes of the workers that live, by their numbers."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if parent == supervisor.pid:
            config = next(e for e in environment if e.startswith(b"TF_CONFIG="))
            index = json.loads(config.partition(b"=")[2])["task"]["index"]
            found[index] = int(process.name)
    return found


def wait_for(happened, supervisor: subprocess.Popen) -> None:
    deadline = time.monotonic() + programs.PATIENCE
    while not happened():
        assert supervisor.poll() is None, supervisor.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def newest(run_dir: Path) -> int:
    steps = [int(p.stem.split("-")[1]) for p in run_dir.glob("checkpoints/step-*.json")]
    return max(steps, default=0)


def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    programs.finish(start(undisturbed))

    process = start(killed)
    # A worker.
    wait_for(lambda: newest(killed) >= 2, process)
    os.kill(workers(process)[1], signal.SIGKILL)
    # The chief, while it writes a checkpoint.
    after = newest(killed) + 4
    wait_for(
        lambda: newest(killed) >= after and list(killed.glob("checkpoints/.partial-step-*")),
        process,
    )
    os.kill(workers(process)[0], signal.SIGKILL)
    # Everything.
    after = newest(killed) + 4
    wait_for(lambda: newest(killed) >= after, process)
    everything = [*workers(process).values(), process.pid]
    for pid in everything:
        os.kill(pid, signal.SIGKILL)
    said = process.communicate()[0]
    assert said.count("All start anew") == 2, said
    assert newest(killed) < STEPS and not (killed / "report.json").exists()
    process = start(killed)
    said = programs.finish(process)
    assert "Going on after step" in said

    one, two = (RunCheckpoints(d / "checkpoints", keep=2).latest() for d in (undisturbed, killed))
    assert one.step == two.step == STEPS and one.arrays.keys() == two.arrays.keys()
    for name, values in one.arrays.items():
        np.testing.assert_array_equal(two.arrays[name], values, err_msg=name)
    reports = [json.loads((d / "report.json").read_text()) for d in (undisturbed, killed)]
    for key in ("top1", "top5", "loss", "correct", "steps", "epochs", "strategy"):
        assert reports[0][key] == reports[1][key]
    assert reports[0]["strategy"].startswith("2 workers")
