"""What is refused of the images of a run."""

from __future__ import annotations

import dataclasses

import pytest
from data_cases import CLASSES, config_for, encoded, pieces

from training import data
from training.config import ConfigError
from training.data import sources


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"batch_size": 43}, {}, "`batch_size` must be at most .* 42. Received 43"),
        ({}, {"workers": 3}, "`batch_size` must be a multiple of the number of devices, 3"),
        ({"mix_images": 8}, {"workers": 2}, "`mix_images` must divide .* 8 / 2 = 4. Received 8"),
        ({"mix_images": None}, {"workers": 2}, "`mix_images` must be a number .* 8 / 2 = 4"),
    ],
)
def test_what_does_not_fit_is_said_at_once(folder, fields, where, said):
    config = config_for(
        folder, **{"mix_images": None, **fields} if "batch_size" in fields else fields
    )
    with pytest.raises(ConfigError, match=said) as error:
        data.training_batches(config, data.load(config), data.Damaged(0), **where)
    assert "\n" not in str(error.value)


def test_both_parts_must_have_the_same_classes(folder, tmp_path):
    for name in ("cat", "cow"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "1.jpg").write_bytes(encoded(pieces(1)[0]))
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").write_bytes(encoded(pieces(1)[0]))
    config = config_for(folder, validation_source=f"folder:{tmp_path}")
    with pytest.raises(ConfigError, match="2 classes and 3. Only in one: bird, cow, dog"):
        data.load(config)


def test_a_photo_and_a_digit_do_not_go_together(folder, monkeypatch):
    digits = dataclasses.replace(sources.load("digits", "validation"), class_names=CLASSES)
    load = sources.load
    monkeypatch.setattr(
        sources, "load", lambda s, *rest: digits if s == "digits" else load(s, *rest)
    )
    with pytest.raises(ConfigError, match="as many channels .* Received 1 and 3"):
        data.load(config_for(folder, validation_source="digits"))
