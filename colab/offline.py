"""What the notebooks use where there is no network: small colour images, and a model that knows them.

A handwritten digit of scikit-learn lies somewhere on a piece of one of its two photos. That is no task
that anybody has. But a small CvT learns it within a minute, it has to find the digit before it can read
it, and where it looks can be judged by eye.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

import keras_cvt

SIZE, DIGIT = 64, 28  # pixels
HELD_OUT = 360  # digits that no training image shows

STAGES = (
    keras_cvt.StageConfig(32, depth=1, num_heads=1, patch_size=7, patch_stride=4, patch_padding=2),
    keras_cvt.StageConfig(64, depth=3, num_heads=2, stride_kv=1, class_token=True),
)


def digits_on_photos(
    count: int, digits: Sequence[int] = range(10), held_out: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (count, SIZE, SIZE, 3), and of each its digit's place in `digits`, (count,)."""
    random = np.random.default_rng(seed)
    photos, drawn = load_sample_images().images, load_digits()
    part = slice(-HELD_OUT, None) if held_out else slice(-HELD_OUT)
    known = np.flatnonzero(np.isin(drawn.target[part], digits))
    chosen = random.choice(known, count)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for image, ink in zip(images, drawn.images[part][chosen], strict=True):
        photo = photos[random.integers(len(photos))]
        side = random.integers(SIZE, 3 * SIZE)
        top, left = (random.integers(length - side) for length in photo.shape[:2])
        piece = Image.fromarray(photo[top : top + side, left : left + side])
        image[:] = np.asarray(piece.resize((SIZE, SIZE))) // 2  # dark enough for white ink
        ink = Image.fromarray((ink * 255 / 16).astype(np.uint8)).resize((DIGIT, DIGIT))
        ink = np.asarray(ink, np.float32)[..., np.newaxis] / 255
        top, left = random.integers(SIZE - DIGIT + 1, size=2)
        place = image[top : top + DIGIT, left : left + DIGIT]
        place[:] = place * (1 - ink) + 255 * ink
    return images, np.searchsorted(digits, drawn.target[part][chosen])


def write_digits(folder: Path | str, count: int) -> Path:
    """Writes held-out images as files."""
    return _write(folder, digits_on_photos(count, held_out=True, seed=2)[0])


def write_photos(folder: Path | str, count: int) -> Path:
    """Writes pieces of the two photos, of 256x256 pixels, as files, in a folder for each photo."""
    random = np.random.default_rng(0)
    photos = load_sample_images().images
    for name, photo in zip(("china", "flower"), photos, strict=True):
        corners = [random.integers(side - 256, size=count // 2) for side in photo.shape[:2]]
        pieces = [
            photo[top : top + 256, left : left + 256] for top, left in zip(*corners, strict=True)
        ]
        _write(Path(folder) / name, pieces)
    return Path(folder)


def _write(folder: Path | str, images: Iterable[np.ndarray]) -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    return folder


def train(path: Path | str, digits: Sequence[int] = range(10), steps: int = 200) -> keras.Model:
    """Trains a small CvT on them from random weights, and saves it as a `.keras` file."""
    keras.utils.set_random_seed(0)
    model = keras_cvt.CvT(
        STAGES,
        classes=len(digits),
        input_shape=(SIZE, SIZE, 3),
        kernel_initializer="glorot_uniform",
        name="small",
    )
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - 50, warmup_target=2e-3, warmup_steps=50
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.05), "sparse_categorical_crossentropy"
    )
    images, labels = digits_on_photos(64 * steps // 2, digits)
    model.fit(keras_cvt.preprocess_input(images), labels, batch_size=64, epochs=2, verbose=0)
    model.save(path)
    images, labels = digits_on_photos(500, digits, held_out=True, seed=1)
    answers = model.predict(keras_cvt.preprocess_input(images), verbose=0).argmax(-1)
    print(
        f"Offline: no published weights. A small CvT of {model.count_params():,} parameters was "
        f"trained here to read digits on photos: {np.mean(answers == labels):.0%} of 500 held-out "
        "images are right."
    )
    return model
