"""Examples in the record files of tensorflow_datasets: ArrayRecord and TFRecord."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from training.config import ConfigError
from training.data import storage
from training.data.sources.source import Example

# What the reader of ArrayRecord says when the operating system can't do what it asked, as in "pread()
# failed: Input/output error".
_CALL_FAILED = re.compile(r"\w\(\) failed: ")

_OTHER_FILES = 64  # that a run has open at least

# To mix the images of record files, so many of them are read from in turns,
OPEN_FILES = 16

# and so many successive images are shuffled, while the next are read: 0.9 GB of ImageNet's.
MIXED = 4096

# Instead of a record that can't be read: it is damaged, or its file can't be read now. No record is so.
_DAMAGED, _UNREAD = b"", b"?"

_BLOCK = 64  # records


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
        unread = tf.where(serialized == _UNREAD, path, "")
        example = tf.cond(
            (serialized == _DAMAGED) | (serialized == _UNREAD),
            lambda: {"image": tf.constant(""), "labels": tf.zeros(0, tf.int64), "name": place},
            lambda: self._parsed(serialized, place),
        )
        return {**example, "unread": unread}

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
        open_records: Opens what gives a serialized record by its index in the split.
        parse: Makes an example of it.
    """

    def __init__(self, files: Files, open_records: Callable[[], Sequence[bytes]], parse: Parser):
        self._files, self._open, self._parse = files, open_records, parse
        self._records = open_records()
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
        except (RuntimeError, ValueError, IndexError) as error:  # of its reader
            record = _DAMAGED  # for a wrong checksum
            if _CALL_FAILED.search(str(error)):
                record = _UNREAD
                self._records = self._open()  # an open file may never come back
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
    """Gives (path, place in the file, serialized) of successive records of a file.

    A record that can't be read is damaged if the file's bytes can be; else the file is tried again.
    After a damaged record, the file's next one can't be found.
    """
    records = tf.data.TFRecordDataset(path, buffer_size=2**20).skip(begin).take(number)
    # Opened before: what can't be opened would be an error again and again, without end.
    records = _opened(path).flat_map(lambda _: records.enumerate(begin))
    records = records.ignore_errors(log_warning=False).batch(_BLOCK)

    def more(_: tf.Tensor) -> tf.data.Dataset:
        places = tf.data.Dataset.range(begin, begin + number)
        damaged, unread = (
            tf.data.Dataset.zip(places, tf.data.Dataset.from_tensors(instead).repeat())
            for instead in (_DAMAGED, _UNREAD)
        )
        if_damaged = records.concatenate(damaged.batch(_BLOCK))

        def attempt(attempted: tf.Tensor) -> tf.data.Dataset:
            said = unread.batch(1).take(1).filter(lambda *_: ~storage.say(path, attempted))
            found = records.concatenate(_read_whole(path).flat_map(lambda _: if_damaged))
            return found.concatenate(said)

        return storage.attempts(attempt).concatenate(unread.batch(_BLOCK))

    # Each attempt begins anew: of each place, the first record counts. Many at once, which is faster.
    def new(due: tf.Tensor, block: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tuple]:
        here, serialized = (values[block[0] >= due] for values in block)
        paths = tf.fill(tf.shape(here), path)
        return tf.maximum(due, block[0][-1] + 1), (paths, here, serialized)

    # A function: what is seldom needed takes longer to prepare than all the rest.
    records = records.concatenate(tf.data.Dataset.from_tensors(0).flat_map(more))
    return records.scan(begin, new).unbatch().take(number)


def _opened(path: tf.Tensor) -> tf.data.Dataset:
    """Gives one element if a file can be opened, else none."""

    def first_byte(path: tf.Tensor) -> tf.Tensor:
        file = tf.data.FixedLengthRecordDataset(path, record_bytes=1, buffer_size=1)
        return file.take(1).get_single_element()

    return tf.data.Dataset.from_tensors(path).map(first_byte).ignore_errors(log_warning=False)


def _read_whole(path: tf.Tensor) -> tf.data.Dataset:
    """Gives one element if all bytes of a file can be read, else none."""

    def count(path: tf.Tensor) -> tf.Tensor:
        # Of all data sets, the one of lines is content with any bytes.
        lines = tf.data.TextLineDataset(path, buffer_size=2**20).batch(2**12)
        return lines.reduce(tf.constant(0, tf.int64), lambda batches, _: batches + 1)

    return tf.data.Dataset.from_tensors(path).map(count).ignore_errors(log_warning=False)


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
    """Raises the limit of open files: it is usually 1024, and ImageNet has more record files.

    Raises:
        ConfigError: If that is not allowed.
    """
    import resource  # not on Windows, like ArrayRecord

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY, max(hard, more + _OTHER_FILES)):
        raise ConfigError(
            f"{more} record files must be open at once. The limit of open files must be at least "
            f"{more + _OTHER_FILES} (see `ulimit -Hn`), or the files fewer and larger. Received {hard}."
        )
    if soft != resource.RLIM_INFINITY:
        wanted = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def array_records(builder: Any, split: str) -> Sequence[bytes]:
    """Opens a split's serialized records for random access."""
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return builder.as_data_source(split, deserialize_method=raw)
