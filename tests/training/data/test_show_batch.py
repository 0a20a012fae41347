"""`python -m training.show_batch`."""

from __future__ import annotations

import numpy as np
from data_cases import config_for
from PIL import Image

from training import configs, show_batch


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
