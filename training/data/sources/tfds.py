"""Data sets of tensorflow_datasets."""

from __future__ import annotations

import difflib
import os
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from training._messages import one_line, some
from training.config import ConfigError
from training.data.sources.images import Example, Images, named
from training.data.sources.splits import usual_split

# To mix the images of record files, so many of them are read from in turns,
OPEN_FILES = 16

# and so many successive images are shuffled, while the next are read: 0.9 GB of ImageNet's.
MIXED = 4096

_DAMAGED = b""  # instead of a record that can't be read; none is empty

# 6,149 images to be judged by and 1,020 + 1,020 to learn from, all of which transfer results use.
_OWN_SPLITS = {
    "oxford_flowers102": {"train": "train+validation", "validation": "test", "evaluation": "test"}
}


def tfds_images(name: str, part: str, split: str | None, data_dir: str | None) -> Images:
    import tensorflow_datasets as tfds

    source = f"tfds:{name}"
    builder = _prepared_builder(name, data_dir)
    keys, classes = _features(builder, source)
    by_name = named(classes)
    splits = builder.info.splits
    split = (
        split or _OWN_SPLITS.get(builder.name, {}).get(part) or usual_split(source, part, splits)
    )
    file_format = builder.info.file_format
    if file_format not in (tfds.core.FileFormat.TFRECORD, tfds.core.FileFormat.ARRAY_RECORD):
        raise ConfigError(
            f"{source} must be in TFRecord or ArrayRecord. It is in {file_format.value}."
        )
    try:
        files = splits[split].file_instructions
    except (ValueError, KeyError) as error:
        raise ConfigError(f"The split {split!r} of {source}: {one_line(error)}") from None
    if not files:
        raise ConfigError(f"The split {split!r} of {source} has no images.")
    missing = {f.basename() for f in files} - {*tf.io.gfile.listdir(os.fspath(builder.data_path))}
    if missing:
        raise ConfigError(f"{builder.data_path} lacks files of {source}: {some(sorted(missing))}.")

    paths = tf.constant([os.fspath(file.filename) for file in files])
    skip = tf.constant([file.skip for file in files], tf.int64)
    take = tf.constant([file.take for file in files], tf.int64)
    ends = tf.cumsum(take)
    count = int(ends[-1])

    # Of the features only these, and the image as it is stored.
    wanted = tfds.features.FeaturesDict({k: builder.info.features[k] for k in keys.values()})

    def parse(path: tf.Tensor, record: tf.Tensor, serialized: tf.Tensor) -> Example:
        place = tf.strings.split(path, "/")[-1] + ":" + tf.strings.as_string(record)

        def parsed() -> Example:
            example = wanted.deserialize_example(
                serialized, decoders={keys["image"]: tfds.decode.SkipDecoding()}
            )
            labels = tf.reshape(example[keys["labels"]], [-1])
            return {
                "image": example[keys["image"]],
                "labels": tf.boolean_mask(labels, labels >= 0),  # -1 where the label is not known
                "name": example[keys["name"]] if "name" in keys else place,
            }

        def damaged() -> Example:
            return {"image": tf.constant(""), "labels": tf.zeros(0, tf.int64), "name": place}

        return tf.cond(serialized == _DAMAGED, damaged, parsed)

    # ArrayRecord has random access, for which TensorFlow has no operation.
    if file_format is tfds.core.FileFormat.ARRAY_RECORD:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        records = builder.as_data_source(split, deserialize_method=raw)
        _allow_open_files(len(files))  # which it keeps open

        def record_at(index: np.ndarray) -> list[np.ndarray]:
            try:
                record = records[index]
            except (RuntimeError, ValueError, IndexError):  # of its reader, for a wrong checksum
                record = _DAMAGED
            return [np.array(record, object)]  # NumPy's own strings lose zeros at their end

        def at(index: tf.Tensor) -> Example:
            (serialized,) = tf.numpy_function(record_at, [index], [tf.string], stateful=False)
            file = tf.searchsorted(ends, [index], side="right")[0]
            record = index - ends[file] + take[file] + skip[file]
            return parse(paths[file], record, tf.ensure_shape(serialized, []))

        return Images(count=count, split=split, at=at, **by_name)

    # TFRecord can be read only from its beginning.
    def stream(key: tf.Tensor | None, worker: int, workers: int) -> tf.data.Dataset:
        order = tf.range(len(files))
        if key is not None:
            order = tf.random.experimental.stateless_shuffle(order, seed=key)
        # The files one after another are cut into the workers' shares, so a file may have two of them.
        taken = tf.gather(take, order)
        first = tf.cumsum(taken, exclusive=True)
        begin = tf.clip_by_value(count * worker // workers - first, 0, taken)
        end = tf.clip_by_value(count * (worker + 1) // workers - first, 0, taken)
        shares = (tf.gather(paths, order), tf.gather(skip, order) + begin, end - begin)
        shares = [tf.boolean_mask(values, end > begin) for values in shares]

        def read(path: tf.Tensor, begin: tf.Tensor, number: tf.Tensor) -> tf.data.Dataset:
            records = tf.data.TFRecordDataset(path, buffer_size=2**20).skip(begin).take(number)
            # After a damaged record, the file's next one can't be found.
            lost = tf.data.Dataset.from_tensors(_DAMAGED).repeat()
            records = records.ignore_errors(log_warning=True).concatenate(lost).take(number)
            return records.enumerate(begin).map(lambda place, record: (path, place, record))

        # Not `Dataset.shuffle`, whose seed can't be the key of an epoch.
        def mix(block: tf.Tensor, rows: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            seed = tf.random.fold_in(key, block)
            order = tf.random.experimental.stateless_shuffle(tf.range(tf.size(rows[0])), seed=seed)
            return tuple(tf.gather(values, order) for values in rows)

        records = tf.data.Dataset.from_tensor_slices(tuple(shares)).interleave(
            read,
            cycle_length=1 if key is None else OPEN_FILES,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        if key is not None:
            records = records.batch(MIXED).enumerate().map(mix).prefetch(1).unbatch()
        return records.map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    return Images(count=count, split=split, stream=stream, **by_name)


def _allow_open_files(more: int) -> None:
    """The usual limit is 1024; ImageNet has more record files than that."""
    import resource  # not on Windows, as ArrayRecord

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def find_builder(name: str, data_dir: str | None = None) -> Any:
    """The data set of that name, prepared or not, or the one that is prepared in that folder.

    Raises:
        ConfigError: if there is none.
    """
    import tensorflow_datasets as tfds

    path = os.path.expanduser(name)
    if tf.io.gfile.exists(f"{path}/dataset_info.json"):
        return tfds.builder_from_directory(path)
    if path.startswith((".", "/")) or "://" in path:
        raise ConfigError(f"{path} has no prepared data set: there is no dataset_info.json in it.")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        close = difflib.get_close_matches(
            name, tfds.list_builders(with_community_datasets=False), n=1
        )
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"tensorflow_datasets has no {name!r}.{hint}") from None
    except ValueError as error:  # an unknown config, for one
        raise ConfigError(f"tfds:{name}: {one_line(error)}") from None


def is_prepared(builder: Any) -> bool:
    """Whether a data set is there to be read; without the warnings of tfds' own method."""
    return tf.io.gfile.exists(os.path.join(builder.data_path, "dataset_info.json"))


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    """The prepared data set; prepares it first where tfds can do so by itself."""
    import tensorflow_datasets as tfds

    builder = find_builder(name, data_dir)
    if is_prepared(builder):
        return builder
    where = f" --data-dir {data_dir}" if data_dir else ""
    command = f"python -m training.prepare tfds:{name}{where}"
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        raise ConfigError(
            f"{name} is not prepared in {builder.data_dir}, and its files can't be downloaded "
            f"without you. Have them in DIR, then: {command} --tars DIR"
        )
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare()
    except Exception as error:  # of a server, the network, the disk, the data set's own code
        raise ConfigError(
            f"{name} is not prepared in {builder.data_dir}, and that failed: {one_line(error)} "
            f"To try again: {command}"
        ) from error
    return builder


def _features(builder: Any, source: str) -> tuple[dict[str, str], list[str]]:
    """The data set's names of an example's image, labels and name, and of the classes."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    supervised = [key for key in builder.info.supervised_keys or () if isinstance(key, str)]

    def only(kind: type, place: int) -> str | None:
        def fits(feature: Any) -> bool:
            return isinstance(feature, kind) or (
                kind is tfds.features.ClassLabel
                and isinstance(feature, tfds.features.Sequence)
                and isinstance(feature.feature, kind)
            )

        if len(supervised) == 2 and fits(features[supervised[place]]):
            return supervised[place]
        keys = [key for key, feature in features.items() if fits(feature)]
        return keys[0] if len(keys) == 1 else None

    image, labels = only(tfds.features.Image, 0), only(tfds.features.ClassLabel, 1)
    if image is None or labels is None:
        raise ConfigError(
            f"{source} is not for image classification: it must have one Image and one ClassLabel. "
            f"It has {', '.join(f'{k}: {type(f).__name__}' for k, f in sorted(features.items()))}."
        )
    keys = {"image": image, "labels": labels}
    if "file_name" in features:
        keys["name"] = "file_name"
    label = features[labels]
    return keys, getattr(label, "feature", label).names
