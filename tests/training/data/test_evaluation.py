"""Evaluation batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from data_cases import CLASSES, TRAIN, config_for, encoded, without_random_access
from sklearn.datasets import load_sample_image

from keras_cvt.imagenet import load_image
from training import data, show_batch
from training.data import sources
from training.data.sources import Example


def test_evaluation_leaves_damaged_images_out(damaged_folder, access):
    path, bad = damaged_folder
    config = config_for(path, train_split="validation", validation_split="train")
    images, damaged = access(data.load(config)), data.Damaged(4)
    batches = list(
        data.evaluation_batches(config.data, images.validation, damaged, 8).as_numpy_iterator()
    )
    assert sum(weights.sum() for _, _, weights in batches) == TRAIN - 4
    assert sorted(damaged.names) == bad
    damaged = data.Damaged(3)
    with pytest.raises(tf.errors.OpError):
        list(data.evaluation_batches(config.data, images.validation, damaged, 8))
    assert "4 images can't be read" in str(damaged.error)


def numbered(count: int) -> sources.Source:
    """Decoded images that show their numbers."""

    def at(index: tf.Tensor) -> Example:
        image = tf.fill((2, 2, 1), tf.cast(index, tf.uint8))
        return {
            "image": image,
            "labels": index[tf.newaxis] % 3,
            "name": tf.strings.as_string(index),
        }

    return sources.RandomAccess(count, CLASSES, channels=1, mean=(0.0,), std=(1 / 255,), at=at)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("count", "batch_size", "workers", "replicas"),
    [
        *((n, b, 1, 1) for n, b in ((1, 1), (7, 7), (7, 3), (5, 8), (200, 64))),
        *((13, 8, 2, 1), (13, 8, 1, 2), (13, 8, 2, 2), (16, 8, 4, 2), (3, 8, 4, 1), (17, 8, 4, 2)),
    ],
)
def test_evaluation_counts_each_image_once(count, batch_size, workers, replicas, stream, digits):
    config = digits.replace(image_size=2, max_shift=0)
    images = numbered(count)
    images = without_random_access(images) if stream else images
    found, lengths = [], set()
    for worker in range(workers):
        batches = list(
            data.evaluation_batches(
                config.data, images, data.Damaged(0), batch_size, worker, workers, replicas
            ).as_numpy_iterator()
        )
        lengths.add(len(batches))
        for x, y, weights in batches:
            assert len(x) == len(y) == len(weights) == batch_size // workers // replicas
            numbers = x[:, 0, 0, 0].round().astype(int)[weights == 1]
            assert set(weights.tolist()) <= {0.0, 1.0}
            assert y[weights == 1].tolist() == np.eye(3)[numbers % 3].tolist()
            found += numbers.tolist()
    assert sorted(found) == list(range(count))
    assert lengths == {-(-count // batch_size) * replicas}


def test_evaluation_with_many_right_classes_or_none(digits):
    labels = tf.ragged.constant([[0], [0, 2], [], [1, 0, 2]], dtype=tf.int64)

    def at(index: tf.Tensor) -> Example:
        image = tf.zeros((2, 2, 1), tf.uint8)
        return {"image": image, "labels": labels[index], "name": tf.constant("name")}

    images = dataclasses.replace(numbered(4), at=at)
    config, damaged = digits.replace(image_size=2, max_shift=0), data.Damaged(0)
    for given in (images, without_random_access(images)):
        ((_, y, weights),) = data.evaluation_batches(
            config.data, given, damaged, 4
        ).as_numpy_iterator()
        assert y.tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]]
        assert weights.tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("crop", [0.875, 1.0, None])
def test_evaluation_sees_what_load_image_gives(crop, tmp_path, folder):
    photos = (
        load_sample_image("china.jpg"),
        load_sample_image("flower.jpg")[:, 100:371],
        load_sample_image("flower.jpg")[::3, ::3],  # smaller than the result
    )
    files = [tmp_path / "val" / name / "1.jpg" for name in CLASSES]
    for file, image in zip(files, photos, strict=True):
        file.parent.mkdir(parents=True)
        file.write_bytes(encoded(image))
    config = config_for(
        folder, validation_source=f"folder:{tmp_path}", image_size=224, evaluation_crop=crop
    )
    images = data.load(config)
    ((x, y, _),) = data.evaluation_batches(
        config.data, images.validation, data.Damaged(0), 3
    ).as_numpy_iterator()
    assert y.tolist() == np.eye(3).tolist()
    pixels = show_batch.denormalized(x, images.mean, images.std) * 255
    for file, mine in zip(files, pixels, strict=True):
        difference = np.abs(mine - load_image(file, 224, crop))
        assert difference.mean() < 0.25
        assert difference.max() < 1.01 and np.mean(difference > 0.5) < 1e-3


@pytest.mark.parametrize("size", [24, 31, 32])
def test_evaluation_rounds_sizes_and_offsets_as_load_image(size):
    ramp = np.add.outer(np.arange(101), np.arange(199)).clip(0, 255)
    ramp = np.stack([ramp] * 3, axis=-1).astype(np.uint8)
    for height, width in ((101, 67), (67, 101), (64, 64), (50, 199), (33, 40), (100, 75)):
        image = ramp[:height, :width]
        for crop in (0.875, 0.9):
            expected = load_image(image, size, crop).astype(int)
            mine = data.evaluation_image(tf.constant(image), size, crop).numpy()
            # One pixel aside, the mean would differ by nearly one gray level or more.
            assert np.abs(mine - expected).mean() < 0.2
