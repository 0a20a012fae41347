"""What is refused of the images of a run."""

from __future__ import annotations

import dataclasses
import re

import pytest
from data_cases import CLASSES, config_for, encoded, pieces

from training import configs, data
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
    with pytest.raises(ConfigError, match="does not know: cow. .* knows 3: bird, cat, dog."):
        data.load(config)
    (tmp_path / "val" / "cow").rename(tmp_path / "val" / "dog")  # fewer classes, all known
    (tmp_path / "train" / "cow").rename(tmp_path / "train" / "dog")
    images = data.load(config).validation
    assert images.class_names == CLASSES
    assert [e["labels"].tolist() for e in images.examples().as_numpy_iterator()] == [[1], [2]]


@pytest.mark.parametrize(
    ("splits", "shared", "advice"),
    [
        ({"validation_split": "train[90%:]"}, "4 of the 4", "train[:90%] train[90%:]"),
        ({"validation_split": "train[:10]"}, "10 of the 10", "train[10:] train[:10]"),
        (
            {"validation_split": "train[10%:20%]"},
            "4 of the 4",
            "train[:10%]+train[20%:] train[10%:20%]",
        ),
        (
            {"train_split": "train[:80%]", "validation_split": "validation+train"},
            "34 of the 53",
            "train[:80%] train[80%:]",
        ),
        ({"train_split": "train+validation"}, "11 of the 11", "train validation"),
        ({"train_split": "all"}, "11 of the 11", "validation[:90%] validation[90%:]"),
        ({"validation_split": "train"}, "42 of the 42", "train[:90%] train[90%:]"),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_no_image_is_both_for_training_and_validation(folder, again, splits, shared, advice):
    if again:  # the same folder under another name
        splits = {**splits, "validation_source": f"folder:{folder}/../{folder.name}"}
    with pytest.raises(ConfigError) as error:
        data.load(config_for(folder, **splits))
    assert f"{shared} validation images are also trained on" in str(error.value)
    if again:
        assert "Choose other images" in str(error.value)
        return
    train, validation = advice.split()
    assert f"train_split={train} and validation_split={validation}." in str(error.value)
    data.load(config_for(folder, train_split=train, validation_split=validation))


def test_the_advice_where_no_part_is_for_validation_can_be_followed(folder):
    source = {"source": f"folder:{folder}/train"}
    with pytest.raises(ConfigError, match="Say which to take") as error:
        data.load(config_for(folder, **source))
    advice = dict(re.findall(r"`(\w+)=(\S+)`", str(error.value)))
    images = data.load(config_for(folder, **source, **advice))
    assert (images.train.count, images.validation.count) == (38, 4)


def test_digits_are_kept_apart_too():
    config = configs.load("digits", ["validation_split=train[95%:]"])
    with pytest.raises(ConfigError, match=r"72 of the 72 .* train_split=train\[:95%\] and"):
        data.load(config)


def test_a_photo_and_a_digit_do_not_go_together(folder, monkeypatch):
    digits = dataclasses.replace(sources.load("digits", "validation"), class_names=CLASSES)
    load = sources.load
    monkeypatch.setattr(
        sources, "load", lambda s, *rest: digits if s == "digits" else load(s, *rest)
    )
    with pytest.raises(ConfigError, match="as many channels .* Received 1 and 3"):
        data.load(config_for(folder, validation_source="digits"))
