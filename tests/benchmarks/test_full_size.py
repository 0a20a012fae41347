"""The data at its real size, in small."""

from __future__ import annotations

import json

import pytest

from benchmarks import full_size


def test_making_goes_on_and_all_images_are_found(tmp_path):
    full_size.make("1500", str(tmp_path), "1000")
    removed = next((tmp_path / "folder/train/n00000000").iterdir())
    removed.unlink()
    full_size.make("2000", str(tmp_path), "1000")
    assert removed.exists()
    assert len([*(tmp_path / "folder").glob("train/*/*.JPEG")]) == 2000
    full_size.list_images("2000", str(tmp_path))  # else it would not find as many


def test_growth_is_extended_to_imagenet_22k():
    def step(name, images):
        return {
            "step": name,
            "images": images,
            "processor_seconds": 5 + images / 1e6,
            "megabytes": 100 + images / 1e5,
        }

    steps = [step("list", 10**6), step("train", 10**6), step("list", 2 * 10**6)]
    (line,) = full_size._extrapolated(steps)
    assert line == "list, 14,197,122 images: 19 s of processors and 242 MB"


@pytest.mark.slow
def test_all_steps(tmp_path, capsys):
    report = tmp_path / "report.json"
    given = ["--images", "1024", "--validation", "1000", "--epoch", "array_record"]
    given += ["--more", "2000", "--folder", str(tmp_path / "images"), "--json", str(report)]
    assert full_size.main(given) == 0
    steps = json.loads(report.read_text())["steps"]
    assert [step["step"] for step in steps] == [
        *["make", "list", "start folder", "resume folder"] * 2,
        *["prepare tfrecord", "start tfrecord", "resume tfrecord"],
        *["prepare array_record", "start array_record", "resume array_record"],
        "train array_record",
    ]
    assert all(step["processor_seconds"] > 0 for step in steps)
    assert "resume folder, 14,197,122 images" in capsys.readouterr().out
