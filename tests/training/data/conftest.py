"""Small sources of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from data_cases import (
    CLASSES,
    HELD_OUT,
    TRAIN,
    batches_of,
    both_streams,
    config_for,
    encoded,
    pieces,
)
from PIL import Image

from training import configs, data
from training.config import Config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Class folders of small JPEGs."""
    path = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(pieces(TRAIN + HELD_OUT)):
        part = "train" if number < TRAIN else "val"
        file = path / part / CLASSES[number % len(CLASSES)] / f"{number:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(image))
    return path


@pytest.fixture(scope="module", params=["random access", "stream"])
def access(request) -> Callable[[data.RunData], data.RunData]:
    return both_streams if request.param == "stream" else lambda images: images


@pytest.fixture(scope="module")
def digits() -> Config:
    return configs.load("digits", ["image_size=16", "batch_size=256", "epochs=4"])


@pytest.fixture(scope="module")
def alone(folder) -> list[tuple]:
    return batches_of(config_for(folder, epochs=1))


@pytest.fixture(scope="module")
def damaged_folder(folder, tmp_path_factory) -> tuple[Path, list[str]]:
    """A copy, with unusual images and with four training images that can't be read; their names."""
    copy = tmp_path_factory.mktemp("damaged")
    files = sorted(folder.glob("*/*/*.jpg"), key=lambda path: path.name)
    image = Image.fromarray(pieces(3)[2])
    contents = {file: file.read_bytes() for file in files}
    unusual = [
        encoded(image, "png"),
        encoded(image.convert("CMYK")),
        encoded(image.convert("L")),
        encoded(image, "gif"),
        encoded(image.convert("RGBA"), "png"),
        encoded(image.convert("P"), "png"),
    ]
    contents.update(zip(files[:6], unusual, strict=True))
    half = contents[files[10]][: len(contents[files[10]]) // 2]
    bad = dict(zip(files[10:14], (half, b"no image at all", b"", b"\xff\xd8\xff\xe0"), strict=True))
    for file, content in {**contents, **bad}.items():
        there = copy / file.relative_to(folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content)
    return copy, sorted(str(copy / file.relative_to(folder)) for file in bad)
