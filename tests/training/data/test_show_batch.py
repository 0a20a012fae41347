"""`python -m training.show_batch`."""

from __future__ import annotations

import numpy as np
from data_cases import config_for
from PIL import Image

from keras_cvt.imagenet import MEAN, STD
from training import augment, configs, show_batch


def test_show_batch_draws_photos(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(configs, "load", lambda *_: config_for(folder))
    output = tmp_path / "sheet.png"
    assert show_batch.main(["--config", "digits", "--output", str(output), "--batch", "3"]) == 0
    picture = np.asarray(Image.open(output).convert("RGB"), int)
    assert picture.shape[1] > 5 * picture.shape[0]
    assert np.abs(picture[..., 0] - picture[..., 2]).mean() > 3  # in colour


def test_show_batch_names_damaged_images_in_one_line(damaged_folder, tmp_path, capsys, monkeypatch):
    config = config_for(damaged_folder[0], max_damaged=0, batch_size=42, mix_images=None)
    monkeypatch.setattr(configs, "load", lambda *_: config.replace(crop_scale=(1, 1)))
    assert show_batch.main(["--config", "digits", "--output", str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("training.show_batch: error: ") and "can't be read" in error
    assert list(tmp_path.iterdir()) == []


def test_show_batch_draws_the_digits(tmp_path, capsys):
    output = tmp_path / "new" / "sheet.png"
    settings = ["--set", "batch_size=6", "--batch", "1"]
    assert show_batch.main(["--config", "digits", "--output", str(output), *settings]) == 0
    assert "batch 1 of digits" in capsys.readouterr().out
    picture = np.asarray(Image.open(output).convert("L"))
    assert picture.shape[1] > 5 * picture.shape[0]  # one row of six
    assert picture.std() > 30
    assert list(output.parent.iterdir()) == [output]


def test_show_batch_answers_mistakes_in_one_line(tmp_path, capsys):
    arguments = ["--config", "digit", "--output", str(tmp_path / "a.png")]
    assert show_batch.main(arguments) == 2
    assert "Did you mean 'digits'?" in capsys.readouterr().err
    for name in ("sheet", "sheet.xyz"):
        assert show_batch.main(["--config", "digits", "--output", str(tmp_path / name)]) == 2
        assert f".svg. Received {name}." in capsys.readouterr().err
    arguments = ["--config", "digits", "--output", str(tmp_path / "a.png"), "--batch", "999999"]
    assert show_batch.main(arguments) == 2
    error = capsys.readouterr().err
    assert "`--batch` must be less than" in error
    assert error.count("\n") == 1


def test_captions_name_the_classes_and_their_shares():
    names = ("cat", "dog", "owl", "fox")
    assert show_batch.caption(np.array([0.025, 0.925, 0.025, 0.025]), names) == "dog"
    mixed = 0.62 * np.array([0.925, 0.025, 0.025, 0.025]) + 0.38 * np.array(
        [0.025, 0.025, 0.925, 0.025]
    )
    assert show_batch.caption(mixed, names) == "cat 62 %\nowl 38 %"
    assert show_batch.caption(np.array([0.0, 0.0, 1.0, 0.0]), names) == "owl"


def test_denormalized_pixels_are_those_before():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    normal = np.stack([augment.normalize(p, MEAN, STD) for p in pixels])
    shown = show_batch.denormalized(normal, MEAN, STD)
    np.testing.assert_allclose(shown * 255, pixels, atol=0.01)
