"""What the tests of all formats export, and the pictures that they answer for."""

from __future__ import annotations

import pytest
from export_cases import LABELS, small
from PIL import Image
from sklearn.datasets import load_sample_images


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The small model as a file, its labels, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("export")
    small().save(folder / "small.keras")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    photos = folder / "photos"
    photos.mkdir()
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        Image.fromarray(photo).save(photos / f"{name}.jpg", quality=95)
        for i in range(0, 240, 24):  # other parts, to calibrate by
            Image.fromarray(photo[i : i + 180, i : i + 180]).save(photos / f"{name}{i}.png")
    return folder


@pytest.fixture(scope="session")
def photos(folder):
    return [folder / "photos" / f"{name}.jpg" for name in ("china", "flower")]
