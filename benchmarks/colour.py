"""A small classifier of colour images, trained here: which digit stands on this piece of a photo?

Made as MNIST-M is (Ganin et al. 2016, arXiv:1505.07818): the pixels of a piece of a photo, less those
of a handwritten digit, without their sign. The digits are scikit-learn's, the photos the twenty that
foolbox brings. Learned from are the training digits of the run `digits` on the upper two thirds of each
photo; judged by are its held-out digits on the lower third: no stroke and no pixel is in both.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

SIZE, DIGIT, PIECE = 48, 40, 96  # pixels; pieces are halved
STEPS, BATCH = 800, 64


def photos() -> list[Path]:
    """The twenty files."""
    spec = importlib.util.find_spec("foolbox")
    if spec is None or spec.origin is None:
        raise ImportError("The photos are foolbox's: pip install foolbox")
    return sorted((Path(spec.origin).parent / "data").glob("imagenet_*.jpg"))


def draw(count: int, held_out: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images: uint8 (count, SIZE, SIZE, 3), and the digit that is on each, int (count,)."""
    from PIL import Image

    from training.data import sources

    bicubic = Image.Resampling.BICUBIC
    opened = [Image.open(path).convert("RGB") for path in photos()]
    digits = sources.load("digits", "validation" if held_out else "train")
    examples = [digits.at(np.int64(i)) for i in range(digits.count)]
    strokes = [
        Image.fromarray(example["image"].numpy()[..., 0]).resize((DIGIT, DIGIT), bicubic)
        for example in examples
    ]
    random = np.random.default_rng(seed)
    chosen = random.integers(digits.count, size=count)
    images = np.empty((count, SIZE, SIZE, 3), np.int16)
    for i, number in enumerate(chosen):
        photo = opened[random.integers(len(opened))]
        border = photo.height * 2 // 3
        low, high = (border, photo.height) if held_out else (0, border)
        top = random.integers(low, high - PIECE + 1)
        left = random.integers(photo.width - PIECE + 1)
        images[i] = photo.resize((SIZE, SIZE), bicubic, (left, top, left + PIECE, top + PIECE))
        row, column = random.integers(SIZE - DIGIT + 1, size=2)
        images[i, row : row + DIGIT, column : column + DIGIT] -= np.array(strokes[number])[
            ..., None
        ]
    labels = np.array([int(example["labels"][0]) for example in examples])
    return np.abs(images).astype(np.uint8), labels[chosen]


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
        stages, classes=10, input_shape=(SIZE, SIZE, 3), kernel_initializer="glorot_uniform"
    )
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, STEPS - 50, warmup_target=1e-3, warmup_steps=50
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.05), "sparse_categorical_crossentropy"
    )
    images, labels = draw(STEPS * BATCH, held_out=False, seed=0)
    model.fit(keras_cvt.preprocess_input(images), labels, batch_size=BATCH, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
