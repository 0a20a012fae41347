"""Storage that is away for a while: a file that can't be read is no damaged image."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data_cases import PLAIN, batches_of, config_for, encoded, pieces

from training import data
from training.data import storage
from training.data.records.folder import read_folder
from training.data.records.writer import write_records
from training.data.storage import StorageError


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """The same few images in a folder, and in several record files of each format."""
    root = tmp_path_factory.mktemp("storage")
    for number, image in enumerate(pieces(18)):
        file = root / "folder" / ("val" if number >= 12 else "train") / "ab"[number % 2]
        file.mkdir(parents=True, exist_ok=True)
        (file / f"{number:02}.jpg").write_bytes(encoded(image))
    for file_format in ("tfrecord", "array_record"):
        write_records(
            *read_folder(str(root / "folder"), root / file_format),
            root / file_format,
            file_format,
            8_000,
        )
    return root


class Copy:
    """A copy that may be changed, its images found but not yet read.

    Attributes:
        file: One of those that are needed to read them all.
    """

    def __init__(self, originals: Path, folder: Path, kind: str, part: str):
        shutil.copytree(originals / kind, folder)
        pattern = f"{part[:3]}*/*/*.jpg" if kind == "folder" else f"*-{part}.*-0*"
        self.file = sorted(folder.glob(pattern))[-1]
        source = f"folder:{folder}" if kind == "folder" else f"tfds:{folder}"
        asked = {"source": source, "epochs": 1, "batch_size": 4, "mix_images": None}
        self._config, self._part = config_for(folder, **{**PLAIN, **asked}), part
        self._images = data.load(self._config)

    def read(self, damaged: data.Damaged) -> np.ndarray:
        if self._part == "train":
            batches = batches_of(self._config, self._images, damaged)
        else:
            images = self._images.validation
            batches = data.evaluation_batches(self._config.data, images, damaged, 3)
            batches = batches.as_numpy_iterator()
        return np.concatenate([batch[0] for batch in batches])

    def read_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return data.evaluation_arrays(self._config, self._images)


@pytest.mark.parametrize(
    "case",
    [("folder", "validation"), ("tfrecord", "train"), ("array_record", "train")],
    ids=" ".join,
)
def test_a_file_that_comes_back_is_waited_for(originals, tmp_path, monkeypatch, case):
    copy, missed = Copy(originals, tmp_path / "copy", *case), []
    away = copy.file.rename(tmp_path / "away")
    copy.file.mkdir()  # there, and can't be read

    def come_back(name: bytes) -> bool:
        missed.append(os.fsdecode(name))
        if copy.file.is_dir():
            copy.file.rmdir()
            away.rename(copy.file)
        return True

    def say(name: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return tf.ensure_shape(tf.numpy_function(come_back, [name], tf.bool), ())

    monkeypatch.setattr(storage, "DELAYS", (0.01,) * 3)
    monkeypatch.setattr(storage, "say", say)
    damaged = data.Damaged(0)
    images = copy.read(damaged)
    assert {*missed} == {str(copy.file)}
    assert damaged.names == {} and damaged.error is None
    assert len(images) == (12 if case[1] == "train" else 6)
    assert len({image.tobytes() for image in images}) == len(images)


@pytest.mark.parametrize("case", [("folder", "train"), ("tfrecord", "validation")], ids=" ".join)
def test_a_file_that_stays_away_is_no_damaged_image(originals, tmp_path, monkeypatch, capfd, case):
    copy = Copy(originals, tmp_path / "copy", *case)
    monkeypatch.setattr(storage, "DELAYS", (0.01, 0.01))
    copy.file.unlink()
    damaged = data.Damaged(100)
    with pytest.raises(tf.errors.OpError):
        copy.read(damaged)
    assert isinstance(damaged.error, StorageError) and damaged.names == {}
    assert str(damaged.error) == f"{copy.file} can't be read: No such file or directory."
    said = [line for line in capfd.readouterr().err.splitlines() if "Trying again" in line]
    assert said and {*said} == {f"{copy.file} can't be read. Trying again, for 68 s."}


def test_arrays_for_evaluation_name_the_file_that_stays_away(originals, tmp_path, monkeypatch):
    copy = Copy(originals, tmp_path / "copy", "folder", "validation")
    monkeypatch.setattr(storage, "DELAYS", (0.01,))
    copy.file.unlink()
    with pytest.raises(StorageError, match="can't be read: No such file or directory.$"):
        copy.read_arrays()


def test_a_damaged_image_is_not_waited_for(originals, tmp_path, capfd):
    copy = Copy(originals, tmp_path / "copy", "tfrecord", "train")
    content = bytearray(copy.file.read_bytes())
    content[len(content) // 2 :] = b"no record any more"
    copy.file.write_bytes(content)
    damaged = data.Damaged(100)
    assert len(copy.read(damaged)) == 12
    assert all(name.startswith(f"{copy.file.name}:") for name in damaged.names) and damaged.names
    assert damaged.error is None and "Trying again" not in capfd.readouterr().err
