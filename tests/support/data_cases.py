"""Small sources of pictures, and how their batches are compared."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_cvt.imagenet import MEAN, STD
from training import augment, data
from training.config import Config
from training.data import sources

CLASSES = ("bird", "cat", "dog")

TRAIN, HELD_OUT = 42, 11  # images


def pieces(count: int) -> list[np.ndarray]:
    """Different parts of two photos, uint8 of different sizes."""
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    random = np.random.default_rng(0)
    result = []
    for number in range(count):
        height, width = (48, 64) if number % 2 else (60, 45)
        top, left = random.integers(427 - 2 * height), random.integers(640 - 2 * width)
        result.append(photos[number % 2][top : top + 2 * height : 2, left : left + 2 * width : 2])
    return result


def encoded(image: np.ndarray | Image.Image, kind: str = "jpeg") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **({"quality": 90} if kind == "jpeg" else {}))
    return buffer.getvalue()


def config_for(folder: Path, **fields) -> Config:
    """Little of everything, so that all of it is in the batches compared."""
    return Config.from_dict(
        {
            "source": f"folder:{folder}",
            "model": "cvt13",
            "image_size": 24,
            "epochs": 3,
            "batch_size": 8,
            "mix_images": 4,
            "learning_rate": 1e-3,
            "augmenter": "none",  # RandAugment takes seconds to build
            "erase": 0.5,
            **fields,
        }
    )


PLAIN = {
    "crop_scale": None,
    "augmenter": "none",
    "flip": 0.0,
    "erase": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "evaluation_crop": None,
}


def batches_of(
    config: Config,
    images: data.RunData | None = None,
    damaged: data.Damaged | None = None,
    **where: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    images, damaged = images or data.load(config), damaged or data.Damaged(0)
    return list(data.training_batches(config, images, damaged, **where).as_numpy_iterator())


def assert_same(one: list[tuple], other: list[tuple]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def joined(parts: list[list[tuple]]) -> list[tuple]:
    """Batches of parts of steps as one batch for each step."""
    return [
        tuple(np.concatenate(arrays) for arrays in zip(*of_step, strict=True))
        for of_step in zip(*parts, strict=True)
    ]


def whole_steps(batches: list[tuple], replicas: int) -> list[tuple]:
    return joined([batches[replica::replicas] for replica in range(replicas)])


def fields_of(source: sources.Source) -> dict[str, Any]:
    """What all sources have."""
    return {f.name: getattr(source, f.name) for f in dataclasses.fields(sources.Source)}


def without_random_access(images: sources.Source) -> sources.Source:
    def stream(key: tf.Tensor | None, worker: int, workers: int) -> tf.data.Dataset:
        order = tf.range(images.count, dtype=tf.int64)
        if key is not None:
            order = tf.random.experimental.stateless_shuffle(order, seed=key)
        share = order[images.count * worker // workers : images.count * (worker + 1) // workers]
        return tf.data.Dataset.from_tensor_slices(share).map(images.at)

    return sources.Stream(**fields_of(images), stream=stream)


def both_streams(images: data.RunData) -> data.RunData:
    return data.RunData(
        without_random_access(images.train), without_random_access(images.validation)
    )


def files_of(batches: list[tuple], images: sources.Source) -> list[int]:
    """Numbers of the images in batches of `PLAIN` configs, whose labels are checked too."""
    known = {}
    for number in range(images.count):
        example = images.at(tf.constant(number, tf.int64))
        pixels = tf.io.decode_jpeg(example["image"], dct_method="INTEGER_ACCURATE")
        pixels = augment.resize(pixels, 24)
        known[augment.normalize(pixels, MEAN, STD).numpy().tobytes()] = (
            number,
            int(example["labels"][0]),
        )
    found = []
    for x, y, *_ in batches:
        for image, label in zip(x, y, strict=True):
            number, expected = known.get(image.tobytes(), (None, None))
            found.append(number)
            if number is not None:
                assert label.tolist() == np.eye(len(CLASSES))[expected].tolist()
    return found
