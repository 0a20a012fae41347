"""Images and labels, as batches.

A training batch is (images, labels), an evaluation batch (images, labels, weights): images are
float32 (batch, height, width, channels), labels float32 (batch, classes) that sum to 1, weights
float32 (batch,).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from training.config import Config, ConfigError

HELD_OUT = 0.2  # of the digits
SPLIT_SEED = 0  # not the run's: all runs are judged by the same images


@dataclasses.dataclass(frozen=True)
class Split:
    """Some images with their labels, in memory.

    Attributes:
        images: float32 (images, height, width, channels), normalized.
        labels: int32 (images,), from 0.
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        train: what is learned from.
        held_out: what is judged by, no image of which is in `train`.
        class_names: for each label.
        background: pixel value of what lies beyond an image's edge.
    """

    train: Split
    held_out: Split
    class_names: tuple[str, ...]
    background: float


def load(config: Config) -> Data:
    """The data set that `config.source` names."""
    return {"digits": _digits}[config.source](config)


def _digits(config: Config) -> Data:
    """1,797 digits, written by 43 people; ink is 16, paper 0, which become 1 and -1.

    Source: scikit-learn's `load_digits`, the test part of UCI's "Optical Recognition of
    Handwritten Digits" (Alpaydin and Kaynak 1998).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    size = (config.image_size, config.image_size)
    images = tf.image.resize(digits.images[..., np.newaxis], size, "bilinear").numpy() / 8 - 1
    labels = digits.target.astype(np.int32)
    train, held_out = train_test_split(
        np.arange(len(labels)), test_size=HELD_OUT, stratify=labels, random_state=SPLIT_SEED
    )
    return Data(
        train=Split(images[train], labels[train]),
        held_out=Split(images[held_out], labels[held_out]),
        class_names=tuple(str(name) for name in digits.target_names),
        background=-1.0,
    )


def steps_per_epoch(config: Config, data: Data) -> int:
    """Full batches in one pass over the training images.

    Raises:
        ConfigError: if there is none.
    """
    steps = len(data.train.labels) // config.batch_size
    if steps == 0:
        raise ConfigError(
            f"`batch_size` must be at most the number of training images, {len(data.train.labels)}. "
            f"Received {config.batch_size}."
        )
    return steps


def training_batches(config: Config, data: Data, first_epoch: int = 0) -> tf.data.Dataset:
    """The batches of the epochs from `first_epoch` to the last, one epoch after the other.

    Order and shifts are drawn by stateless operations, keyed by (seed, epoch) and the place in
    the epoch. So an epoch's batches are always the same, whether the epochs before it were seen
    by this process, by one that was killed, or by none, and at any parallelism.

    Returns:
        A data set of (images, labels), `steps_per_epoch` full batches for each epoch. Labels are
        smoothed.
    """
    images, labels = tf.constant(data.train.images), tf.constant(_one_hot(data, data.train))
    labels = labels * (1 - config.label_smoothing) + config.label_smoothing / labels.shape[-1]
    images_per_epoch = steps_per_epoch(config, data) * config.batch_size

    def epoch_places(epoch):
        key = tf.stack([tf.constant(config.seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(images.shape[0]), seed=key)
        places = tf.data.Dataset.range(images_per_epoch)
        return places.map(lambda place: (order[place], tf.random.fold_in(key, place)))

    def example(index, key):
        return _shift(images[index], config.max_shift, data.background, key), labels[index]

    return (
        tf.data.Dataset.range(first_epoch, config.epochs)
        .flat_map(epoch_places)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        # Epochs end with a full batch, so no batch has images of two.
        .batch(config.batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _shift(image: tf.Tensor, limit: int, background: float, key: tf.Tensor) -> tf.Tensor:
    """Moves an image by a random whole number of pixels, at most `limit`, in each direction."""
    height, width, channels = image.shape
    room = tf.pad(image, [[limit, limit], [limit, limit], [0, 0]], constant_values=background)
    top, left = tf.unstack(tf.random.stateless_uniform([2], key, 0, 2 * limit + 1, tf.int32))
    return tf.slice(room, [top, left, 0], [height, width, channels])


def evaluation_batches(config: Config, data: Data) -> tf.data.Dataset:
    """The held-out images, in order, each once.

    The last batch is filled up with copies of the first image that weigh nothing: all batches
    have one size, as a strategy with several replicas needs it. Keras takes the mean loss over
    all rows of a batch, also those that weigh nothing; so the real images' weight is not 1 but
    what makes the mean weight 1, and Keras' loss is exactly the mean over the real images.

    Returns:
        A data set of (images, labels, weights).
    """
    images, labels = data.held_out.images, _one_hot(data, data.held_out)
    real = len(images)
    padding = -real % config.batch_size
    weights = np.zeros(real + padding, np.float32)
    weights[:real] = (real + padding) / real

    def fill(rows):
        return np.concatenate([rows, np.repeat(rows[:1], padding, axis=0)])

    rows = (fill(images), fill(labels), weights)
    return tf.data.Dataset.from_tensor_slices(rows).batch(config.batch_size).cache()


def _one_hot(data: Data, split: Split) -> np.ndarray:
    return np.eye(len(data.class_names), dtype=np.float32)[split.labels]
