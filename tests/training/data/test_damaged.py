"""Images that can't be read."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data_cases import CLASSES, PLAIN, assert_same, batches_of, config_for
from PIL import Image

from training import augment, data
from training.config import Config, ConfigError
from training.data import reading


def test_damaged_images_are_replaced_and_named_and_nothing_else_changes(
    folder, damaged_folder, access, caplog
):
    path, bad = damaged_folder
    config = config_for(path, **{**PLAIN, "crop_scale": (1.0, 1.0)}, mix_images=None)
    intact = batches_of(config, access(data.load(config_for(folder))))
    images, damaged = access(data.load(config)), data.Damaged(4)
    batches = batches_of(config, images, damaged)
    assert sorted(damaged.names) == bad and damaged.error is None
    assert sorted(r.args[0] for r in caplog.records if r.levelno == logging.WARNING) == bad

    unusual = {str(path / n.relative_to(folder)) for n in folder.glob("train/*/0[0-5].jpg")}
    same = replaced = 0
    names = names_of_rows(config, images, len(batches))
    for (x, y), (x_intact, y_intact), of_rows in zip(batches, intact, names, strict=True):
        for row, name in enumerate(of_rows):
            if name in bad:
                following = next(
                    (row + k) % 8 for k in range(1, 8) if of_rows[(row + k) % 8] not in bad
                )
                np.testing.assert_array_equal(x[row], x[following])
                np.testing.assert_array_equal(y[row], y[following])
                replaced += 1
            elif name not in unusual:
                np.testing.assert_array_equal(x[row], x_intact[row])
                np.testing.assert_array_equal(y[row], y_intact[row])
                same += 1
    assert replaced >= 10 and same > 80
    assert_same(batches[7:], batches_of(config, images, data.Damaged(4), first_step=7))


def names_of_rows(config: Config, images: data.RunData, steps: int) -> list[list[str]]:
    """Of each batch, the files that should be in it."""
    source, result = images.train, []
    for epoch in range(config.optimization.epochs):
        key = augment.key(config.run.seed, 0, epoch)
        examples = source.examples(key).take(40)
        names = [e["name"].decode() for e in examples.as_numpy_iterator()]
        result += [names[i : i + 8] for i in range(0, 40, 8)]
    assert len(result) == steps
    return result


def test_unusual_images_look_as_in_pillow(damaged_folder):
    path, _ = damaged_folder
    images = data.load(config_for(path)).train
    seen = 0
    for number in range(images.count):
        name = images.at(tf.constant(number, tf.int64))["name"].numpy().decode()
        if Path(name).name in ("00.jpg", "02.jpg", "03.jpg"):
            found = reading.read(images, {"index": tf.constant(number, tf.int64)})
            expected = np.asarray(Image.open(name).convert("RGB"), int)
            assert found["damaged"] == b""
            assert np.abs(found["image"].numpy() - expected).max() <= 1
            seen += 1
    assert seen == 3


def test_one_damaged_image_too_many_stops_the_run(damaged_folder):
    path, bad = damaged_folder
    config = config_for(path, crop_scale=(1.0, 1.0))
    damaged = data.Damaged(3)
    with pytest.raises(tf.errors.OpError):
        batches_of(config, damaged=damaged)
    assert isinstance(damaged.error, ConfigError)
    message = str(damaged.error)
    assert message.startswith("4 images can't be read; `max_damaged` is 3: ")
    assert message.count(str(path)) == 3 and "\n" not in message
    assert sorted(damaged.names) == bad


def test_images_that_an_earlier_session_could_not_read_count():
    damaged = data.Damaged(2, {"a": None, "b": None})
    damaged.report([b"b", b"a"])
    with pytest.raises(data.DamagedError, match="^3 images can't be read"):
        damaged.report([b"c"])


def test_a_group_without_a_good_image_stops_the_run(tmp_path, folder):
    for name in CLASSES:
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "train" / name / f"{number}.jpg").write_bytes(b"nothing")
    config = config_for(tmp_path, batch_size=4, validation_source=f"folder:{folder}")
    damaged = data.Damaged(100)
    with pytest.raises(tf.errors.OpError):
        batches_of(config, damaged=damaged)
    assert "All of 4 successive images can't be read: " in str(damaged.error)
