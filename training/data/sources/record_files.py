"""Examples in the record files of tensorflow_datasets: ArrayRecord and TFRecord."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from training.data.sources.source import Example

# To mix the images of record files, so many of them are read from in turns,
OPEN_FILES = 16

# and so many successive images are shuffled, while the next are read: 0.9 GB of ImageNet's.
MIXED = 4096

_DAMAGED = b""  # instead of a record that can't be read; none is empty


class Files:
    """The record files of a split.

    Attributes:
        paths: string (files,).
        skip, take: int64 (files,): the split has these many records of each file, after so many.
        count: Records of the split.
    """

    def __init__(self, paths: Sequence[str], skip: Sequence[int], take: Sequence[int]):
        self.paths = tf.constant(paths)
        self.skip, self.take = tf.constant(skip, tf.int64), tf.constant(take, tf.int64)
        self.count = sum(take)


@dataclasses.dataclass(frozen=True)
class Parser:
    """Makes examples of records.

    Attributes:
        features: Of the data set, the ones that an example needs.
        keys: The features' names of an example's "image", "labels" and, if there is one, "name".
    """

    features: tfds.features.FeaturesDict
    keys: dict[str, str]

    def __call__(self, path: tf.Tensor, record: tf.Tensor, serialized: tf.Tensor) -> Example:
        """Makes an example.

        Args:
            path, record: The file, and the record's place in it: a name for an image without one.
            serialized: The record.
        """
        place = tf.strings.split(path, "/")[-1] + ":" + tf.strings.as_string(record)
        return tf.cond(
            serialized == _DAMAGED,
            lambda: {"image": tf.constant(""), "labels": tf.zeros(0, tf.int64), "name": place},
            lambda: self._parsed(serialized, place),
        )

    def _parsed(self, serialized: tf.Tensor, place: tf.Tensor) -> Example:
        # The image as it is stored.
        decoders = {self.keys["image"]: tfds.decode.SkipDecoding()}
        example = self.features.deserialize_example(serialized, decoders=decoders)
        labels = tf.reshape(example[self.keys["labels"]], [-1])
        return {
            "image": example[self.keys["image"]],
            "labels": tf.boolean_mask(labels, labels >= 0),  # -1 where the label is not known
            "name": example[self.keys["name"]] if "name" in self.keys else place,
        }


class ArrayRecords:
    """Examples with random access, for which TensorFlow has no operation: it takes Python.

    Args:
        files: Of the split.
        records: Gives a serialized record by its index in the split.
        parse: Makes an example of it.
    """

    def __init__(self, files: Files, records: Sequence[bytes], parse: Parser):
        self._files, self._records, self._parse = files, records, parse
        self._ends = tf.cumsum(files.take)

    def at(self, index: tf.Tensor) -> Example:
        """Gives the example at an index, int64 ()."""
        files = self._files
        (serialized,) = tf.numpy_function(self._record, [index], [tf.string], stateful=False)
        file = tf.searchsorted(self._ends, [index], side="right")[0]
        record = index - self._ends[file] + files.take[file] + files.skip[file]
        return self._parse(files.paths[file], record, tf.ensure_shape(serialized, []))

    def _record(self, index: np.ndarray) -> list[np.ndarray]:
        try:
            record = self._records[index]
        except (RuntimeError, ValueError, IndexError):  # of its reader, for a wrong checksum
            record = _DAMAGED
        return [np.array(record, object)]  # NumPy's own strings lose zeros at their end


class TFRecords:
    """Examples that can be read only from the beginning of their files.

    Args:
        files: Of the split.
        parse: Makes an example of a record.
    """

    def __init__(self, files: Files, parse: Parser):
        self._files, self._parse = files, parse

    def stream(self, key: tf.Tensor | None, worker: int, workers: int) -> tf.data.Dataset:
        """Gives a worker's share of the examples: see `Stream`."""
        records = tf.data.Dataset.from_tensor_slices(self._share(key, worker, workers)).interleave(
            _read,
            cycle_length=1 if key is None else OPEN_FILES,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if key is not None:
            records = _mixed(records, key)
        return records.map(self._parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def _share(
        self, key: tf.Tensor | None, worker: int, workers: int
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Paths of the files that have records of a worker's share; the first, and how many."""
        files = self._files
        order = tf.range(tf.size(files.paths))
        if key is not None:
            order = tf.random.experimental.stateless_shuffle(order, seed=key)
        # The files one after another are cut into the workers' shares, so a file may have two of them.
        taken = tf.gather(files.take, order)
        first = tf.cumsum(taken, exclusive=True)
        begin = tf.clip_by_value(files.count * worker // workers - first, 0, taken)
        end = tf.clip_by_value(files.count * (worker + 1) // workers - first, 0, taken)
        share = (
            tf.gather(files.paths, order),
            tf.gather(files.skip, order) + begin,
            end - begin,
        )
        return tuple(tf.boolean_mask(values, end > begin) for values in share)


def _read(path: tf.Tensor, begin: tf.Tensor, number: tf.Tensor) -> tf.data.Dataset:
    """Gives (path, place in the file, serialized) of successive records of a file."""
    records = tf.data.TFRecordDataset(path, buffer_size=2**20).skip(begin).take(number)
    # After a damaged record, the file's next one can't be found.
    lost = tf.data.Dataset.from_tensors(_DAMAGED).repeat()
    records = records.ignore_errors(log_warning=True).concatenate(lost).take(number)
    return records.enumerate(begin).map(lambda place, record: (path, place, record))


def _mixed(records: tf.data.Dataset, key: tf.Tensor) -> tf.data.Dataset:
    """Shuffles each block of successive records.

    Not `Dataset.shuffle`, whose seed can't be the key of an epoch.
    """

    def mix(block: tf.Tensor, rows: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
        seed = tf.random.fold_in(key, block)
        order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(rows[0])), seed=seed)
        return tuple(tf.gather(values, order) for values in rows)

    return records.batch(MIXED).enumerate().map(mix).prefetch(1).unbatch()


def allow_open_files(more: int) -> None:
    """Raises the limit of open files: it is usually 1024, and ImageNet has more record files."""
    import resource  # not on Windows, like ArrayRecord

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def array_records(builder: Any, split: str) -> Sequence[bytes]:
    """Opens a split's serialized records for random access."""
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return builder.as_data_source(split, deserialize_method=raw)
