"""A small classifier of colour images, trained here: of which of twenty photos is this a piece?

The photos are the twenty that foolbox brings. Pieces of 96x96 pixels, shrunk to 48x48, are cut at
random from the upper two thirds of each photo to learn from, and from the lower third to be judged by:
no pixel is in both. It is no task that anybody has. But it is real colour images, a model that has
learned something, and an accuracy which a bad quantization lowers.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

PIECE, SIZE = 96, 48
STEPS, BATCH = 500, 64


def photos() -> list[Path]:
    """The twenty files."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise ImportError("The photos are foolbox's: pip install foolbox")
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


def pieces(count: int, held_out: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pieces: uint8 (count, SIZE, SIZE, 3), and of which photo each is, int (count,)."""
    from PIL import Image

    opened = [Image.open(path).convert("RGB") for path in photos()]
    random = np.random.default_rng(seed)
    labels = random.integers(len(opened), size=count)
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for i, label in enumerate(labels):
        photo = opened[label]
        border = photo.height * 2 // 3
        low, high = (border, photo.height) if held_out else (0, border)
        top = random.integers(low, high - PIECE + 1)
        left = random.integers(photo.width - PIECE + 1)
        box = (left, top, left + PIECE, top + PIECE)
        images[i] = photo.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
    return images, labels


def train(path: Path) -> None:
    """Trains the model, some minutes on two cores, and saves it."""
    import keras

    import keras_cvt

    keras.utils.set_random_seed(0)
    stages = [
        keras_cvt.StageConfig(
            64, depth=1, num_heads=1, patch_size=7, patch_stride=4, patch_padding=2
        ),
        keras_cvt.StageConfig(128, depth=2, num_heads=2),
        keras_cvt.StageConfig(256, depth=3, num_heads=4, class_token=True),
    ]
    model = keras_cvt.CvT(
        stages,
        classes=len(photos()),
        input_shape=(SIZE, SIZE, 3),
        kernel_initializer="glorot_uniform",
    )
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, STEPS - 50, warmup_target=1e-3, warmup_steps=50
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.05), "sparse_categorical_crossentropy"
    )
    images, labels = pieces(STEPS * BATCH, held_out=False, seed=0)
    model.fit(keras_cvt.preprocess_input(images), labels, batch_size=BATCH, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
