"""Checkpoints that cannot be read or removed just now, and a state that changes while it is written."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
from run_checkpoint_cases import assert_same, checkpoint

from training.runs import run_checkpoints
from training.runs.run_checkpoints import DiskError, RunCheckpoint


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("name", ["step-00000020.json", "step-00000020.safetensors"])
def test_what_cannot_be_read_now_is_not_passed_over_as_damaged(
    run, tmp_path, monkeypatch, warnings, number, name
):
    """Or the run would go back, or begin anew, and throw away what is there."""
    read, opened = Path.read_bytes, open

    def check(path):
        if Path(path).name == name:
            raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "read_bytes", lambda path: check(path) or read(path))
    monkeypatch.setattr(
        run_checkpoints, "open", lambda path, mode: check(path) or opened(path, mode), raising=False
    )
    with pytest.raises(DiskError, match=f"{name} can't be read: {os.strerror(number)}"):
        run.latest()
    assert warnings == []
    monkeypatch.undo()
    assert_same(run.latest(), checkpoint(20))


def test_old_checkpoints_that_cannot_be_removed_cost_nothing(run, tmp_path, monkeypatch, warnings):
    def fail(path, *_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(run, "_remove_old", fail)
    run.save(checkpoint(30))
    assert warnings == [
        "The checkpoints before step 30 can't be removed: [Errno 24] Too many open files"
    ]
    monkeypatch.undo()
    assert_same(run.latest(), checkpoint(30))
    assert run.steps() == [10, 20, 30]
    run.save(checkpoint(40))
    assert run.steps() == [30, 40]


def test_what_changes_while_it_is_written_is_stored_as_it_was(run, monkeypatch):
    """As when a damaged image is found just then: with the wrong checksum, all would be lost."""
    real, state = run_checkpoints.write_arrays, {"damaged": {"a.jpg": None}, "epochs": []}

    def meanwhile(*arguments):
        state["damaged"]["b.jpg"] = None
        state["epochs"].append({"loss": 1.0})
        return real(*arguments)

    monkeypatch.setattr(run_checkpoints, "write_arrays", meanwhile)
    run.save(RunCheckpoint(30, {}, state))
    assert run.latest() == RunCheckpoint(30, {}, {"damaged": {"a.jpg": None}, "epochs": []})


def test_numbers_that_are_not_finite_are_strict_json(run, tmp_path):
    state = {"epochs": [{"loss": float("inf"), "gradient_norm": -math.inf}], "text": "nan"}
    run.save(RunCheckpoint(30, {}, state))
    text = (tmp_path / "step-00000030.json").read_text()
    json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert run.latest().state == state


def test_checkpoints_of_earlier_versions_may_have_other_json(run, tmp_path):
    path = tmp_path / "step-00000020.json"
    record = json.loads(path.read_text())
    del record["checksum"]
    record["state"] = {"loss": math.inf}
    record["checksum"] = run_checkpoints._checksum(record)
    path.write_text(json.dumps(record))
    assert "Infinity" in path.read_text()
    assert run.latest().state == {"loss": math.inf}
