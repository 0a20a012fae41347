"""The demonstration: a finished run is exported, compared and shown (training/demo.py)."""

from __future__ import annotations

import json

import numpy as np
import programs
import pytest

from training import demo

pytestmark = pytest.mark.usefixtures("deterministic")


def test_demo_exports_compares_and_shows(finished_run, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("config.json", "report.json", "model.keras"):
        (run_dir / name).write_bytes((finished_run / name).read_bytes())
    assert demo.main(["--run-dir", str(run_dir), "--count", "5"]) == 0
    said = capsys.readouterr().out
    report = json.loads((run_dir / "report.json").read_text())
    assert f"360 held-out images, {report['correct']} of them right" in said
    assert len([line for line in said.splitlines() if line.rstrip(" wrong").endswith("%")]) == 5
    assert (run_dir / "predictions.png").read_bytes().startswith(b"\x89PNG")
    assert (run_dir / "saved_model" / "1" / "saved_model.pb").exists()


def test_other_answers_of_the_exported_model_are_found_out():
    answers = np.full((4, 10), 0.1, np.float32)
    other = answers.copy()
    other[2, 3] += 9e-6
    assert demo.largest_difference(other, answers) == pytest.approx(9e-6, rel=0.01)
    other[2, 3] += 2e-6
    with pytest.raises(demo.DemoError, match="differs"):
        demo.largest_difference(other, answers)
    other[2, 3] = np.nan
    with pytest.raises(demo.DemoError, match="differs"):
        demo.largest_difference(other, answers)


def test_demo_refuses_low_accuracy_and_unfinished_runs(finished_run, tmp_path, capsys):
    assert demo.main(["--run-dir", str(finished_run), "--min-top1", "1.01"]) == 1
    assert "less than 101.00%" in capsys.readouterr().err
    assert demo.main(["--run-dir", str(tmp_path)]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_keras_is_really_absent_from_the_process_that_answers():
    code = """
import sys
from training import answer_without_keras as a
a.hide_keras()
print([name for name in (*a.ABSENT, "json") if a._can_import(name)])
"""
    assert programs.run("-c", code).strip() == "['json']"
