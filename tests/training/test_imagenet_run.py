"""The ImageNet recipe from tars to accuracy, on data made for it: all but the scale is real."""

from __future__ import annotations

import json
from pathlib import Path

import programs
import pytest
import tensorflow_datasets as tfds
from imagenet_tars import photo, validation_images, write

from keras_cvt.imagenet import synsets
from training import evaluate
from training.runs.run_checkpoints import RunCheckpoints

# The tars have 25 training images: 3 steps an epoch. 48 pixels are the least that stage 3 needs.
SET = ["image_size=48", "batch_size=8", "mix_images=4", "epochs=1", "warmup_epochs=0.5"]
SET += ["cooldown_epochs=1", "checkpoint_steps=1"]
# On several devices a small model: the real one takes a minute to prepare on each.
SMALL = ["model=custom", "dims=16,32,64", "depths=1,1,2", "heads=1,2,4"]

pytestmark = pytest.mark.slow("imagenet")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """ImageNet, prepared by the real builder of tensorflow_datasets."""
    folder = tmp_path_factory.mktemp("imagenet")
    tars = write(folder / "tars")
    source = ["tfds:imagenet2012", "--tars", str(tars), "--data-dir", str(folder)]
    programs.run("-m", "training.prepare", *source)
    return folder


# What two devices of one process do is tests/test_distribute.py's, and a notebook's.
@pytest.mark.parametrize("devices", ["one_device", "two_processes"])
def test_the_recipe_trains_resumes_and_evaluates(devices, data_dir, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    model = [] if devices == "one_device" else SMALL
    command = [*programs.TRAIN_ON[devices], "--config", "cvt13_imagenet_224"]
    command += programs.settings(*SET, *model, f"data_dir={data_dir}")
    command += ["--run-dir", str(run_dir)]
    assert "Stopped at step 2" in programs.run(*command, "--set", "max_steps=2")
    said = programs.run(*command)
    assert "Going on after step 2." in said
    report = json.loads((run_dir / "report.json").read_text())
    assert report["steps"] == 6 and report["images"] == 6  # three steps, and three to cool down
    rates = [epoch["learning_rate"] for epoch in last(run_dir).state["epochs"]]
    assert rates == pytest.approx([1e-5, 1e-5])

    if devices == "one_device":  # the model is the same kind of file, whatever made it
        assert report["parameters"] == 19_997_480
        evaluate_everywhere(run_dir, data_dir, tmp_path, monkeypatch)


def last(run_dir: Path):
    return RunCheckpoints(run_dir / "checkpoints", keep=1).latest()


def evaluate_everywhere(run_dir: Path, data_dir: Path, tmp_path: Path, monkeypatch) -> None:
    # ReaL, of whose builder only the download of the labels is replaced: the third image has none.
    labels = [[65], [970, 795], [], [809], [516], [57, 1]]
    real = tfds.builder_cls("imagenet2012_real")
    by_name = dict(zip(validation_images(), labels, strict=True))
    monkeypatch.setattr(real, "_get_real_labels", lambda *_: by_name)
    config = tfds.download.DownloadConfig(manual_dir=data_dir / "tars")
    real(data_dir=data_dir).download_and_prepare(download_config=config)
    # V2's folders are named by numbers. Here most are empty.
    for label in range(1000):
        (tmp_path / "v2" / "val" / str(label)).mkdir(parents=True)
    for label in (65, 970, 0, 999):
        (tmp_path / "v2" / "val" / str(label) / "a.jpeg").write_bytes(photo(label))
    for label in (65, 970):
        folder = tmp_path / "synsets" / "val" / synsets()[label]
        folder.mkdir(parents=True)
        (folder / "b.JPEG").write_bytes(photo(label))
    expected = {
        "tfds:imagenet2012": 6,
        "tfds:imagenet2012_real": 5,
        f"folder:{tmp_path / 'v2'}": 4,
        f"folder:{tmp_path / 'synsets'}": 2,
    }
    for source, images in expected.items():
        path = tmp_path / "report.json"
        options = ["--data", source, "--data-dir", str(data_dir), "--output", str(path)]
        assert evaluate.main(["--model", str(run_dir), *options]) == 0
        report = json.loads(path.read_text())
        assert report["images"] == images
        assert 0 <= report["top1"] <= report["top5"] <= 1
        path.unlink()
