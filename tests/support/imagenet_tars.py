"""ImageNet's tars, tiny: real photos, a few classes, and all else as in the real ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_cvt.imagenet import synsets

# The labels of the first validation images.
VALIDATION_LABELS = (65, 970, 230, 809, 516, 57)
CLASSES = (0, 65, 230, 281, 999)
IMAGES_PER_CLASS = 5


def photo(number: int, kind: str = "JPEG") -> bytes:
    """A small cut-out of a photo, another one for each number."""
    pixels = load_sample_images().images[number % 2]
    top, left = np.random.RandomState(number).randint(0, 380, 2)
    file = io.BytesIO()
    Image.fromarray(pixels[top : top + 24, left : left + 32]).save(file, kind)
    return file.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def train_images() -> dict[str, dict[str, bytes]]:
    """Of each synset, the files' contents."""
    return {
        synsets()[label]: {
            f"{synsets()[label]}_{i}.JPEG": photo(100 * label + i) for i in range(IMAGES_PER_CLASS)
        }
        for label in CLASSES
    }


def validation_images() -> dict[str, bytes]:
    return {f"ILSVRC2012_val_{i:08}.JPEG": photo(7000 + i) for i in range(1, 7)}


def write(folder: Path) -> Path:
    """Writes both tars."""
    folder.mkdir(parents=True, exist_ok=True)
    train = {f"{synset}.tar": tar(files) for synset, files in train_images().items()}
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar(train))
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar(validation_images()))
    return folder
