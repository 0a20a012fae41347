"""The settings of a run: sections, keys, and what is stored of them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from training import configs
from training.config import Config, ConfigError, RunConfig, override
from training.config.config import BEFORE, KEYS, SECTIONS
from training.config.settings import as_text

# What `to_dict` gave for every config when the settings had no sections yet: runs of that time go on.
STORED = json.loads((Path(__file__).parent / "stored.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", STORED)
def test_a_stored_config_is_read_and_written_as_before(name):
    config = configs.load(name)
    assert config.to_dict() == {**BEFORE, **STORED[name]}
    assert Config.from_dict(STORED[name]) == config
    assert config.differences(STORED[name]) == []


def test_a_key_belongs_to_exactly_one_section():
    fields = [(name, f) for name, part in SECTIONS.items() for f in dataclasses.fields(part)]
    assert len(KEYS) == len(fields) == 65
    assert set(KEYS) == {*BEFORE, *STORED["digits"]}
    # What a key changes is its own field and nothing else.
    config = configs.load("digits")
    for key, (section, field) in KEYS.items():
        if not field.metadata.get("may_change"):
            continue
        others = {"strategy": "tpu", "on_divergence": "resume"}
        others |= {"recompute": True, "jit_compile": True}
        other = {**others, "data_dir": "there", "data_service": "grpc://there:1"}.get(key, 7)
        changed = config.replace(**{key: other})
        assert getattr(getattr(changed, section), field.name) == other
        assert changed.to_dict() == {**config.to_dict(), key: other}
        assert config.differences(changed.to_dict()) == []


@pytest.mark.parametrize("name", STORED)
def test_settings_go_through_the_command_line_unchanged(name):
    config = configs.load(name)
    # Those of a custom model have no text: it has none of them.
    texts = [f"{key}={as_text(value)}" for key, value in config.to_dict().items() if value != []]
    other = configs.load("digits").replace(dims=(), depths=(), heads=(), model="cvt13")
    start = configs.load("digits") if config.model.variant == "custom" else other
    assert override(start, texts) == config


def test_what_a_run_must_not_change_between_its_sessions_is_named():
    config = configs.load("digits")
    other = config.replace(
        learning_rate=0.5, max_steps=3, model="cvt13", dims=(), depths=(), heads=()
    )
    assert [text.partition(" ")[0] for text in config.differences(other.to_dict())] == [
        "depths",
        "dims",
        "heads",
        "learning_rate",
        "model",
    ]
    assert "missing there" in config.differences({})[0]


def test_unknown_and_missing_settings_are_type_errors():
    settings = configs.load("digits").to_dict()
    with pytest.raises(TypeError, match="no setting 'epoch'"):
        Config.from_dict({**settings, "epoch": 3})
    with pytest.raises(TypeError, match="source"):
        Config.from_dict({key: value for key, value in settings.items() if key != "source"})
    assert (
        Config.from_dict({key: value for key, value in settings.items() if key != "seed"}).run
        == RunConfig()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "cvtw23"}, r"`model` must be one of .*Did you mean 'cvtw24'\?"),
        ({"flip": 1.5}, "`flip` must be from 0 to 1. Received 1.5."),
        ({"mix_images": 7}, "`batch_size` must be a multiple of `mix_images`. Received 64 and 7."),
        ({"seed": 2**31}, r"`seed` must be at least 0 and less than 2\*\*31"),
        ({"image_size": 10**12}, "`image_size` must be from 1 to 65535. Received 1000000000000."),
        # 0 or infinite in float32, in which TensorFlow computes
        ({"clip_norm": 1e-300}, r"`clip_norm` must be a number that float32 has.*Received 1e-300"),
        ({"learning_rate": 1e39}, "`learning_rate` must be a number that float32 has"),
        ({"epsilon": 1e-46}, "`epsilon` must be a number that float32 has"),
        ({"weight_decay": 1e-40}, "`weight_decay` must be a number that float32 has"),  # subnormal
        (
            {"crop_scale": (1e-50, 1.0), "max_shift": 0},
            "`crop_scale` must be a number that float32",
        ),
        (
            {"ema": 1 - 1e-9},
            "`ema` must be .* less than 1, also as float32, where it is 1. Received",
        ),
        ({"momentum": 1 - 1e-9}, "`momentum` must be .* less than 1, also as float32"),
        (
            {"learning_rate": 1e38, "learning_rate_images": 1},
            r"`learning_rate` times `batch_size` / `learning_rate_images` .*: 1e\+38 \* 64 / 1.",
        ),
        (
            {"learning_rate": 1e-36, "learning_rate_images": 2**30},
            "`learning_rate` times `batch_size` / `learning_rate_images` must be a number that float32",
        ),
        (
            {"learning_rate_images": 10**400},
            "`learning_rate_images` must be at least 1 and less than",
        ),
    ],
)
def test_wrong_values_are_named_by_their_keys(settings, message):
    with pytest.raises(ConfigError, match=message):
        configs.load("digits").replace(**settings)


def test_the_ends_of_a_range_are_in_it_as_float32_too():
    config = configs.load("digits").replace(
        evaluation_crop=0.01, flip=1.0, mixup=0.0, clip_norm=1.2e-38, max_loss=3e38
    )
    assert config.data.evaluation_crop == 0.01 and config.optimization.clip_norm == 1.2e-38


def test_a_config_stored_before_there_was_orientation_means_what_was_done_then():
    for name, settings in STORED.items():
        before = {key: value for key, value in settings.items() if key != "orientation"}
        old = Config.from_dict(before)
        assert old.data.orientation == "ignore"
        assert old.differences(before) == []
        assert old == configs.load(name).replace(orientation="ignore")
    turned = configs.load("digits").differences(before)  # of the last, digits
    assert name == "digits" and turned == ["orientation (ignore there, exif asked)"]
    assert configs.load("cvt21_imagenet_224").data.orientation == "ignore"
