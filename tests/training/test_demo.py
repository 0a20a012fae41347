"""The demonstration: a finished run is exported, compared and shown (training/demo.py)."""

from __future__ import annotations

import json

import numpy as np
import programs
import pytest
import small_models
from PIL import Image
from tiny_runs import changed

from keras_cvt._files import write_json
from training import data, demo
from training.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("deterministic")


def test_demo_exports_compares_and_shows(finished_run, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("config.json", "report.json", "model.keras"):
        (run_dir / name).write_bytes((finished_run / name).read_bytes())
    assert demo.main(["--run-dir", str(run_dir), "--count", "5"]) == 0
    said = capsys.readouterr().out
    report = json.loads((run_dir / "report.json").read_text())
    assert f"360 validation images, {report['correct']} of them right" in said
    assert len([line for line in said.splitlines() if line.rstrip(" wrong").endswith("%")]) == 5
    assert (run_dir / "predictions.png").read_bytes().startswith(b"\x89PNG")
    assert (run_dir / "saved_model" / "1" / "saved_model.pb").exists()


@pytest.mark.slow
def test_pictures_with_colors_of_any_size(tmp_path, capsys):
    photos, random = tmp_path / "photos", np.random.default_rng(0)
    for number in range(12):
        file = photos / ("val" if number % 2 else "train") / "abc"[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        size = (20, 30) if number % 4 else (40, 25)
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(file)
    config = changed(source=f"folder:{photos}", image_size=24, evaluation_crop=0.8, batch_size=4)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    write_json(run.config, config.to_dict())
    model = small_models.tiny(classes=3, input_shape=(24, 24, 3))
    model.save(run.model)
    pixels, labels = data.evaluation_arrays(config, data.load(config))
    right = int(np.sum(model.predict(pixels, verbose=0).argmax(-1) == labels))
    figures = "top1 top5 loss images epochs seconds images_per_second"
    write_json(run.report, {**dict.fromkeys(figures.split(), 1.0), "correct": right})
    assert demo.main(["--run-dir", str(run.path), "--count", "5"]) == 0
    # In two batches, the second of which is not full.
    assert f"answered 6 validation images, {right} of them right" in capsys.readouterr().out
    assert (run.path / "predictions.png").read_bytes().startswith(b"\x89PNG")


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
