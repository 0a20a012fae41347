"""What every source gives: a part of its images, with random access or as a stream."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from keras_cvt.images.labels import with_ids
from keras_cvt.images.preprocessing import MEAN, STD, Preprocessing
from training.data.order import Order, in_turns
from training.data.sources.contents import Contents

# A dict of tensors with names.
Example = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Source(abc.ABC):
    """A part of a source, such as its training images: a `RandomAccess` or a `Stream`.

    An example is a dict of

        image: string (), a picture's file, of any format of docs/pictures.md; or uint8 (height,
            width, channels), already decoded.
        labels: int64 (n,), the classes that are right. Only ImageNet-ReaL has more or fewer than
            one of them; an image with none does not count.
        name: string (), by which a person finds the image.
        unread: string (), the path of a file that can't be read now, else "". May be missing: where
            `example` reads a file, it is an error if it can't.

    A row is a dict too: what it takes to make an example, which may take long, and whatever else
    belongs to it.

    Attributes:
        count: Number of images.
        class_names: For each label.
        synsets: For each label, if all classes are called so in the source and are ImageNet-1k's;
            else None.
        split: Which images of the source these are, in the words of tensorflow_datasets.
        channels: 3, or 1 for gray images.
        mean, std: Of the channels' values in [0, 1], to normalize with.
        left_out: Which files beside the images are passed over, and why, in one line; "" if none are.
        needs_pillow: An image that, by its name, TensorFlow alone does not decode; "" if there is none.
        contents: Which images these are; None where nobody asks.
        rereads: Whether `example` reads a file, so that it may help to call it again.
    """

    count: int
    class_names: tuple[str, ...]
    synsets: tuple[str, ...] | None = None
    split: str = "all"
    channels: int = 3
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    left_out: str = ""
    needs_pillow: str = ""
    contents: Contents | None = None
    rereads: ClassVar[bool] = False

    @property
    def class_ids(self) -> tuple[str, ...]:
        """For each label the name that no other class has, and by which other programs know it."""
        return self.synsets or self.class_names

    @abc.abstractmethod
    def rows(self, key: tf.Tensor | None = None) -> tf.data.Dataset:
        """Gives a row for each image, once.

        Args:
            key: int64 (2,), which decides the order. None: the source's own order.
        """

    @abc.abstractmethod
    def example(self, row: Example) -> Example:
        """Makes the example of a row. In a function of `tf.data`."""

    @abc.abstractmethod
    def groups(
        self, order: Order, prepare: Callable[[tf.data.Dataset], tf.data.Dataset]
    ) -> tf.data.Dataset:
        """Gives a worker's rows of a run, in groups.

        Args:
            order: Says which they are.
            prepare: Is given the `order.group` rows of a group, each with its "epoch" and "place",
                and makes a data set of one element of them.

        Returns:
            The elements, in order.
        """

    @abc.abstractmethod
    def with_examples(self, change: Callable[[Example], Example], **fields: Any) -> Source:
        """Returns a source whose examples are changed, and with other values of these fields."""

    def examples(self, key: tf.Tensor | None = None) -> tf.data.Dataset:
        """Gives each example once, in the order of `rows`."""
        return self.rows(key).map(self.example, tf.data.AUTOTUNE, deterministic=True)

    def relabelled(
        self, labels: Sequence[int], class_names: Sequence[str], synsets: Sequence[str] | None
    ) -> Source:
        """Returns the source with other labels.

        Args:
            labels: For each label, the one that takes its place.
            class_names, synsets: For each of the new labels.
        """
        labels = tf.constant(labels, tf.int64)

        def change(example: Example) -> Example:
            return {**example, "labels": tf.gather(labels, example["labels"])}

        return self.with_examples(change, class_names=tuple(class_names), synsets=synsets)

    def preprocessing(self, image_size: int, crop: float | None) -> Preprocessing:
        """Says how its pictures become the input of a model."""
        # Bicubic for photos; it would draw edges around the strokes of tiny drawings.
        interpolation = "bicubic" if self.channels == 3 else "bilinear"
        return Preprocessing(image_size, crop, self.mean, self.std, interpolation)


@dataclasses.dataclass(frozen=True)
class RandomAccess(Source):
    """A source that reads any image at once. Its rows have an "index".

    Attributes:
        at: Gives the example at an int64 index () in [0, count). For ArrayRecord it calls Python, so
            it works in this process only.
    """

    at: Callable[[tf.Tensor], Example] = dataclasses.field(kw_only=True)
    rereads: ClassVar[bool] = True

    def rows(self, key: tf.Tensor | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.range(self.count).map(
            lambda number: {"index": number if key is None else self._shuffled(number, key)}
        )

    def example(self, row: Example) -> Example:
        return self.at(row["index"])

    def groups(
        self, order: Order, prepare: Callable[[tf.data.Dataset], tf.data.Dataset]
    ) -> tf.data.Dataset:
        def group(number: tf.Tensor) -> tf.data.Dataset:
            rows = order.placed(tf.range(number * order.group, (number + 1) * order.group))
            # A group is of one step, and so of one epoch.
            key = order.epoch_key(rows["epoch"][0])
            index = self._shuffled(rows["place"] // order.views, key)
            return prepare(tf.data.Dataset.from_tensor_slices({**rows, "index": index}))

        per_step = order.rows // order.group
        numbers = tf.data.Dataset.range(order.first_step * per_step, order.steps * per_step)
        return in_turns(numbers, group)

    def with_examples(self, change: Callable[[Example], Example], **fields: Any) -> Source:
        return dataclasses.replace(self, at=lambda index: change(self.at(index)), **fields)

    def _shuffled(self, number: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        last = tf.constant(self.count - 1, tf.int64)
        return tf.random.experimental.index_shuffle(number, key, last)


@dataclasses.dataclass(frozen=True)
class Stream(Source):
    """A source that can only be read from a beginning. Its rows are the examples themselves.

    Attributes:
        stream: Takes (key, worker, workers) and gives a data set of a worker's share of the
            examples; those of all workers together are each example once, and differ in size by one
            at most. The order depends on nothing but the key, int64 (2,); None is the order of the
            files. May be called in a function of `tf.data`.
    """

    stream: Callable[[tf.Tensor | None, int, int], tf.data.Dataset] = dataclasses.field(
        kw_only=True
    )

    def rows(self, key: tf.Tensor | None = None) -> tf.data.Dataset:
        return self.stream(key, 0, 1)

    def example(self, row: Example) -> Example:
        return row

    def groups(
        self, order: Order, prepare: Callable[[tf.data.Dataset], tf.data.Dataset]
    ) -> tf.data.Dataset:
        per_epoch = order.rows_per_epoch // order.workers  # of this worker
        first, last = order.first_step * order.rows, order.steps * order.rows

        def placed(own: tf.Tensor, example: Example) -> Example:
            return {**order.placed(own), **example}

        # A resumed epoch is read from its beginning, but not decoded.
        def of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
            share = self.stream(order.epoch_key(epoch), order.worker, order.workers)
            if order.views > 1:
                share = share.flat_map(
                    lambda example: tf.data.Dataset.from_tensors(example).repeat(order.views)
                )
            # A worker's share may lack a few images: its first ones come again.
            share = share.repeat().take(per_epoch).enumerate(epoch * per_epoch)
            return share.skip(tf.maximum(first - epoch * per_epoch, 0)).map(placed)

        epochs = tf.data.Dataset.range(first // per_epoch, math.ceil(last / per_epoch))
        rows = epochs.flat_map(of_epoch).take(last - first)
        windows = rows.window(order.group, drop_remainder=True)
        return in_turns(windows, lambda window: prepare(tf.data.Dataset.zip(window)))

    def with_examples(self, change: Callable[[Example], Example], **fields: Any) -> Source:
        return dataclasses.replace(
            self, stream=lambda *share: self.stream(*share).map(change), **fields
        )


def named(classes: Sequence[str]) -> dict[str, Any]:
    """Returns the fields of `Source` for classes of these names.

    ImageNet's synsets get their English names.
    """
    english = tuple(name for _, name in with_ids(classes))
    if english == tuple(classes):
        return {"class_names": english}
    return {"class_names": english, "synsets": tuple(classes)}
