"""Data sets of tensorflow_datasets."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_cvt._messages import did_you_mean, one_line, some
from training import _internal
from training.config import ConfigError
from training.data.records import manifest
from training.data.sources.contents import Contents, place
from training.data.sources.record_files import (
    ArrayRecords,
    Files,
    Parser,
    TFRecords,
    allow_open_files,
    array_records,
)
from training.data.sources.source import RandomAccess, Source, Stream, named
from training.data.sources.splits import usual_split

# 6,149 test images, and 1,020 + 1,020 to train on, all of which published transfer results use.
_OWN_SPLITS = {
    "oxford_flowers102": {"train": "train+validation", "validation": "test", "evaluation": "test"}
}


def tfds_source(name: str, part: str, split: str | None, data_dir: str | None) -> Source:
    """Finds the images of a data set of tensorflow_datasets. The arguments are those of `load`."""
    source = f"tfds:{name}"
    builder = _prepared_builder(name, data_dir)
    keys, classes = _features(builder, source)
    if manifest.read(os.fspath(builder.data_path)).classes not in (None, manifest.digest(classes)):
        raise ConfigError(
            f"The classes of {source} are not those that were prepared, in their order: "
            f"{some(classes)}. Copy or prepare them again."
        )
    usual = _OWN_SPLITS.get(builder.name, {}).get(part)
    split = split or usual or usual_split(source, part, builder.info.splits)
    file_format = builder.info.file_format.value
    if file_format not in ("tfrecord", "array_record"):
        raise ConfigError(f"{source} must be in TFRecord or ArrayRecord. It is in {file_format}.")
    files = _files(builder, split, source)

    # Of the features only those that an example needs.
    wanted = tfds.features.FeaturesDict({k: builder.info.features[k] for k in keys.values()})
    parse = Parser(wanted, keys)
    contents = _contents(builder, split, files)
    fields = {"count": files.count, "split": split, "contents": contents, **named(classes)}
    if file_format == "tfrecord":
        return Stream(**fields, stream=TFRecords(files, parse).stream)
    allow_open_files(len(files.paths))  # which it keeps open
    records = ArrayRecords(files, functools.partial(array_records, builder, split), parse)
    return RandomAccess(**fields, at=records.at)


def _files(builder: Any, split: str, source: str) -> Files:
    """Returns the record files of a split, which are all there."""
    try:
        files = builder.info.splits[split].file_instructions
    except (ValueError, KeyError) as error:
        raise ConfigError(f"The split {split!r} of {source}: {one_line(error)}") from None
    if not files:
        raise ConfigError(f"The split {split!r} of {source} has no images.")
    missing = {f.basename() for f in files} - {*tf.io.gfile.listdir(os.fspath(builder.data_path))}
    if missing:
        raise ConfigError(f"{builder.data_path} lacks files of {source}: {some(sorted(missing))}.")
    paths = [os.fspath(file.filename) for file in files]
    noted = manifest.read(os.fspath(builder.data_path))
    _check_sizes(paths, noted.sizes, source)
    for file in files:
        images = noted.images.get(file.basename(), file.examples_in_shard)
        if images != file.examples_in_shard:
            raise ConfigError(
                f"{builder.data_path}/dataset_info.json is of other record files: {file.basename()} "
                f"has {images} images, not {file.examples_in_shard}. Copy or prepare them again."
            )
    return Files(paths, [file.skip for file in files], [file.take for file in files])


def _contents(builder: Any, split: str, files: Files) -> Contents:
    """Which images a split has, as its record files tell: their number and sizes, not their content."""
    info = builder.info
    paths = [path.decode() for path in files.paths.numpy()]
    ranges = [*zip(files.skip.numpy().tolist(), files.take.numpy().tolist(), strict=True)]

    def lines() -> Iterator[bytes]:
        yield f"{info.full_name} in {info.file_format.value}".encode()
        named = re.findall(r"\w+", split)
        for name, part in sorted(info.splits.items()):
            if name in named or "all" in named:
                yield f"{name}: {part.num_examples} images, {part.num_bytes} bytes".encode()
        for path, (skip, take) in zip(paths, ranges, strict=True):
            yield f"{os.path.basename(path)}: {take} images after {skip}".encode()

    def taken() -> dict[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {}
        for path, (skip, take) in zip(paths, ranges, strict=True):
            found.setdefault(place(path), []).append(np.arange(skip, skip + take))
        return {path: np.concatenate(numbers) for path, numbers in found.items()}

    return Contents(lines, taken)


def _check_sizes(paths: list[str], noted: dict[str, int], source: str) -> None:
    """Refuses record files that are shorter or longer than those that were written."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # for files far away
        sizes = pool.map(lambda path: tf.io.gfile.stat(path).length, paths)
    names = [os.path.basename(path) for path in paths]
    wrong = [
        f"{name} ({size:,} bytes" + (f" of {noted[name]:,})" if name in noted else ")")
        for name, size in zip(names, sizes, strict=True)
        if not size or size != noted.get(name, size)
    ]
    if wrong:
        raise ConfigError(
            f"Record files of {source} are not as they were written: {some(wrong)}. Copy or prepare "
            "them again."
        )


def find_builder(name: str, data_dir: str | None = None) -> Any:
    """Finds the data set of that name, prepared or not, or the one that is prepared in that folder.

    Raises:
        ConfigError: If there is none.
    """
    path = os.path.expanduser(name)
    try:
        if tf.io.gfile.exists(f"{path}/dataset_info.json"):
            return tfds.builder_from_directory(path)
    except Exception as error:  # of the network, the disk, or a file that is something else
        raise ConfigError(f"{path} can't be read: {one_line(error)}") from None
    if path.startswith((".", "/")) or "://" in path:
        raise ConfigError(f"{path} has no prepared data set: there is no dataset_info.json in it.")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except _internal.dataset_not_found():
        hint = did_you_mean(name, tfds.list_builders(with_community_datasets=False))
        raise ConfigError(f"tensorflow_datasets has no {name!r}.{hint}") from None
    except ValueError as error:  # an unknown config, for one
        raise ConfigError(f"tfds:{name}: {one_line(error)}") from None


def is_prepared(builder: Any) -> bool:
    """Whether a data set is there to be read; without the warnings of tfds' own method."""
    return tf.io.gfile.exists(os.path.join(builder.data_path, "dataset_info.json"))


def _prepared_builder(name: str, data_dir: str | None) -> Any:
    """The prepared data set; prepares it first where tfds can do so by itself."""
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
