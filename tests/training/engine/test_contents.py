"""A run goes on with its own classes and images only (training/engine/contents.py)."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path

import keras
import pytest
from data_cases import encoded, pieces
from tiny_runs import changed

import keras_cvt
from training import data, train
from training.config import ConfigError
from training.data import sources
from training.engine import contents
from training.runs.folder import RunFolder
from training.runs.run_checkpoints import RunCheckpoints

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Four training images and a validation image of each class."""
    path = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(pieces(5 * len(CLASSES))):
        part = "train" if number < 4 * len(CLASSES) else "val"
        file = path / part / CLASSES[number % len(CLASSES)] / f"{number:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(image))
    return path


@pytest.fixture(scope="module")
def config(photos):
    small = {"depths": (1,), "drop_path_rate": 0.0, "batch_size": 4, "ema": None}
    return changed(source=f"folder:{photos}", augmenter="none", **small, epochs=1, warmup_epochs=0)


@pytest.fixture(scope="module")
def stopped(config, tmp_path_factory) -> Path:
    """A run after its second step."""
    run_dir = tmp_path_factory.mktemp("stopped")
    assert train.train(config.replace(max_steps=2), run_dir) is None
    return run_dir


@contextlib.contextmanager
def renamed(photos: Path, name: str, other: str):
    for part in ("train", "val"):
        (photos / part / name).rename(photos / part / other)
    yield
    for part in ("train", "val"):
        (photos / part / other).rename(photos / part / name)


@contextlib.contextmanager
def added(photos: Path, *names: str):
    for name in names:
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(encoded(pieces(1)[0]))
    yield
    for name in names:
        (photos / name).unlink()
        with contextlib.suppress(OSError):
            (photos / name).parent.rmdir()


@contextlib.contextmanager
def removed(photos: Path, name: str):
    content = (photos / name).read_bytes()
    (photos / name).unlink()
    yield
    (photos / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((renamed, "bee", "wasp"), "The class 'bee' is gone, and there is 'wasp'"),
        ((renamed, "ant", "zebra"), "The class 'ant' is gone, and there is 'zebra'"),
        (
            (added, "train/dog/x.jpg", "val/dog/x.jpg"),
            "Classes that are new: 1 (dog)",
        ),
        (
            (added, *(f"train/cat/{i}.jpg" for i in range(4))),
            "Training images that are new: 4 (cat/0.jpg, cat/1.jpg, cat/2.jpg and 1 more)",
        ),
        ((removed, "train/bee/01.jpg"), "Training images that are gone: 1 (bee/01.jpg)"),
        ((added, "val/ant/x.jpg"), "Validation images that are new: 1 (ant/x.jpg)"),
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_does_not_go_on_with_others(
    config, stopped, photos, tmp_path, change, said, elsewhere
):
    make, *names = change
    run_dir, resume = stopped, []
    if elsewhere:  # from the checkpoints of another run
        run_dir, resume = tmp_path, [RunFolder(stopped).read_checkpoints()]
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with make(photos, *names), pytest.raises(ConfigError) as error:
        train.train(config, run_dir, resume)
    assert said in str(error.value) and "\n" not in str(error.value)
    after = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    assert after == before


def from_before(run_dir: Path, copy: Path) -> tuple[Path, RunCheckpoints]:
    """A copy of a run as runs were when they did not know their classes; and its checkpoints."""
    shutil.copytree(run_dir, copy)
    place = RunCheckpoints(copy / "checkpoints", 1)
    last = place.latest()
    state = {key: value for key, value in last.state.items() if key != "contents"}
    place.save(dataclasses.replace(last, state=state))
    (copy / "labels.txt").unlink()
    (copy / "images.txt.gz").unlink()
    return copy, place


def test_a_run_from_before_goes_on_and_says_so_and_its_model_has_names(
    config, stopped, tmp_path, capsys
):
    copy, place = from_before(stopped, tmp_path / "run")
    assert train.train(config, copy) is not None
    assert "does not say which classes and images" in capsys.readouterr().out
    model = keras.saving.load_model(copy / "model.keras", compile=False)
    assert keras_cvt.class_names(model) == CLASSES
    assert (copy / "labels.txt").read_text() == "ant\nbee\ncat\n"
    described = place.latest().state["contents"]
    assert described["classes"] == [*CLASSES]
    assert (described["train"]["images"], described["validation"]["images"]) == (12, 3)


def test_a_run_from_before_with_folders_of_numbers_does_not_swap_its_labels(
    config, stopped, photos, tmp_path
):
    copy, _ = from_before(stopped, tmp_path / "run")
    with renamed(photos, "ant", "1"), renamed(photos, "bee", "2"), renamed(photos, "cat", "10"):
        images = data.load(config)
        assert images.class_names == ("1", "10", "2")  # as torchvision and Keras sort them
        with pytest.raises(ConfigError, match="10 before 2.*labels would be swapped"):
            train.train(config, copy)


def test_what_has_another_shape_is_said_in_one_line(config, stopped, photos, tmp_path):
    copy, _ = from_before(stopped, tmp_path / "run")
    with (
        added(photos, "train/dog/x.jpg", "val/dog/x.jpg"),
        pytest.raises(ConfigError, match=r"'head/kernel' in the shape \(16, 3\).*\(16, 4\)") as e,
    ):
        train.train(config, copy)
    assert len(str(e.value)) < 300


def test_without_the_list_of_names_the_numbers_are_told(config, photos, tmp_path):
    before = contents.describe(data.load(config))
    with added(photos, "train/ant/x.jpg"):
        images = data.load(config)
        now = contents.describe(images)
    (said,) = contents.differences(before, now, images, [tmp_path / "none.gz"])
    assert said.startswith("Training images: 12 then, 13 now")
    assert contents.differences(before, before, images, []) == []


def test_the_order_of_classes_and_images_counts(config, tmp_path):
    images = data.load(config)
    contents.write(images, tmp_path / "images.gz")
    before = contents.describe(images)
    backwards = [*images.train.contents.lines()][::-1]
    other = dataclasses.replace(
        images,
        train=dataclasses.replace(
            images.train,
            contents=sources.Contents(lambda: backwards, images.train.contents.taken),
        ),
    )
    now = contents.describe(other)
    assert contents.differences(before, now, other, [tmp_path / "images.gz"]) == [
        "Training images: their order"
    ]
    swapped = {**before, "classes": ["bee", "ant", "cat"]}
    assert contents.differences(before, swapped, images, []) == [
        "The order of the classes: label 0 was 'ant' and is 'bee'"
    ]
