"""What is evaluated where nothing else is asked."""

import pytest

from training import configs
from training.config import ConfigError
from training.evaluation.settings import Settings


def orientation(source=None, run=None, **asked):
    return Settings(model="cvt13", source=source, **asked).images(224, run).orientation


def test_imagenet_is_evaluated_as_officially_and_a_run_as_it_was_trained():
    assert orientation("tfds:imagenet2012") == "ignore"
    assert orientation("tfds:imagenet2012_real:5.1.0") == "ignore"
    assert orientation("folder:photos") == orientation("tfds:imagenet_v2") == "exif"
    assert orientation("tfds:imagenet2012", orientation="exif") == "exif"
    for value in ("exif", "ignore"):
        run = configs.load("digits", [f"orientation={value}"]).data
        assert orientation(run=run) == orientation("folder:photos", run) == value
    with pytest.raises(ConfigError, match="`orientation` must be one of exif, ignore"):
        orientation("folder:photos", orientation="up")
