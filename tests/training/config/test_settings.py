"""`key=value` settings as text, and as JSON."""

from __future__ import annotations

import json

import pytest
from tiny_runs import TINY_CONFIG

from training import configs
from training.config import Config, ConfigError, override, settings


def test_overrides_are_read_by_the_type_of_their_field():
    config = configs.load(
        "digits",
        [
            "epochs=7",
            "learning_rate=1e-4",
            "dims=8, 16,32",
            "depths=(1,1,1)",
            "strategy=mirrored",
            "max_steps=4",
        ],
    )
    assert config.optimization.epochs == 7 and isinstance(config.optimization.epochs, int)
    assert config.optimization.learning_rate == 1e-4
    assert config.model.dims == (8, 16, 32)
    assert config.model.depths == (1, 1, 1)
    assert config.run.strategy == "mirrored"
    assert config.run.max_steps == 4
    assert override(config, ["max_steps=none"]).run.max_steps is None
    assert settings.parse("True", bool) is True and settings.parse("false", bool) is False
    with pytest.raises(ValueError):
        settings.parse("yes", bool)


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("epochs", "2", "an integer or none"),
        ("epochs", True, "an integer or none"),
        ("image_size", None, "an integer"),
        ("learning_rate", "high", "a number"),
        ("dims", "16", "values with commas between them, each an integer"),
        ("dims", [16, 32.5], "values with commas between them, each an integer"),
        ("jit_compile", 1, "true or false"),
        ("optimizer", 7, "text"),
    ],
)
def test_stored_values_of_another_type(key, value, right):
    with pytest.raises(ConfigError) as error:
        Config.from_dict({**TINY_CONFIG.to_dict(), key: value})
    assert str(error.value).startswith(f"`{key}` must be {right}. Received ")


def test_a_difference_in_type_alone_can_be_seen():
    assert TINY_CONFIG.differences({**TINY_CONFIG.to_dict(), "epochs": "3"}) == [
        "epochs ('3' there, 3 asked)"
    ]


def test_later_overrides_win_and_the_original_stays():
    original = configs.load("digits")
    assert override(original, ["epochs=7", "epochs=8"]).optimization.epochs == 8
    assert original == configs.load("digits")


def test_config_goes_through_json_unchanged():
    fields = json.loads(json.dumps(TINY_CONFIG.to_dict()))
    assert Config.from_dict(fields) == TINY_CONFIG
    assert TINY_CONFIG.differences(fields) == []
