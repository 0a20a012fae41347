"""Where images come from. A source is one string:

    digits                 scikit-learn's handwritten digits
    folder:PATH            image files in class folders: PATH/train/CLASS/* and PATH/val/CLASS/* (or
                           validation, or test), or PATH/CLASS/*, which are training images
    tfds:NAME[/CONFIG]     a data set of tensorflow_datasets, in TFRecord or ArrayRecord
    tfds:PATH              one that is prepared in this folder, such as by `training.prepare`

PATH may be whatever `tf.io.gfile` reads, gs:// for one. A class's label is its place among the class
folders' names, sorted; names that are all numbers are sorted as numbers. So ImageNet's synsets
(n01440764, ...) have their official labels, and the folders 0 to 999 of ImageNet-V2 too.

Training images are the part "train", those by which a model is judged the part "validation", or
"test" where there is none. A split says otherwise, in the words of tensorflow_datasets: "train[:90%]",
"train+validation", "all". Of folders and digits, a slice has its share of every class. The part
"evaluation" is that of validation, but of PATH/CLASS/* it is all.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cvt import imagenet
from training.config import ConfigError

Example = dict[str, tf.Tensor]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")  # what TensorFlow decodes

DIGITS_HELD_OUT = 0.2
DIGITS_SEED = 0  # not the run's: all runs are judged by the same images

# To mix the images of record files, so many of them are read from in turns,
OPEN_FILES = 16
# and so many successive images are shuffled, while the next are read: 0.9 GB of ImageNet's.
MIXED = 4096

_DAMAGED = b""  # instead of a record that can't be read; none is empty

# The folders of a part; the first that is there is taken.
_FOLDERS = {"train": ("train",), "validation": ("val", "validation", "test")}
# The splits of a part, where no other is asked for; the first that is there is taken.
_HELD_OUT = ("validation", "test")
_SPLITS = {"train": ("train",), "validation": _HELD_OUT, "evaluation": _HELD_OUT}
# 6,149 images to be judged by and 1,020 + 1,020 to learn from, all of which transfer results use.
_OWN_SPLITS = {
    "oxford_flowers102": {"train": "train+validation", "validation": "test", "evaluation": "test"}
}


@dataclasses.dataclass(frozen=True)
class Images:
    """A part of a source, such as its training images. It has exactly one of `at` and `stream`.

    An example is a dict of

        image: string (), an encoded JPEG, PNG, BMP, GIF or WebP file; or uint8 (height, width,
            channels), decoded already.
        labels: int64 (n,), the classes that are right. More or less than one of them has only
            ImageNet-ReaL, and an image with none does not count.
        name: string (), by which a person finds the image.

    Attributes:
        count: number of images.
        class_names: for each label.
        synsets: for each label, if all classes are called so in the source and are ImageNet-1k's;
            else None.
        split: which images of the source these are, in the words of tensorflow_datasets.
        channels: 3, or 1 for grey images.
        mean, std: of the channels' values in [0, 1], to normalize with.
        at: gives the example at an int64 index () in [0, count). Of ArrayRecord it calls Python, so
            only in this process.
        stream: takes (key, worker, workers) and gives a data set of a worker's share of the examples;
            all workers' together are each example once, and differ in size by one at most. The order
            depends on nothing but the key, int64 (2,); None is the order of the files. May be called
            in a function of `tf.data`.
    """

    count: int
    class_names: tuple[str, ...]
    synsets: tuple[str, ...] | None = None
    split: str = "all"
    channels: int = 3
    mean: tuple[float, ...] = imagenet.MEAN
    std: tuple[float, ...] = imagenet.STD
    at: Callable[[tf.Tensor], Example] | None = None
    stream: Callable[[tf.Tensor | None, int, int], tf.data.Dataset] | None = None


def load(source: str, part: str, split: str | None = None, data_dir: str | None = None) -> Images:
    """Finds the images of a source.

    Args:
        source: see above.
        part: "train", "validation" or "evaluation".
        split: which images the part has; None for the usual ones.
        data_dir: folder of the prepared tfds data sets; None for tfds' own.

    Returns:
        The images. None of them has been read.

    Raises:
        ConfigError: if there is no such source, or it has no such images.
    """
    kind, _, place = source.partition(":")
    if source == "digits":
        return _digits(part, split)
    if kind == "folder" and place:
        return _folder(place, part, split)
    if kind == "tfds" and place:
        return _tfds(place, part, split, data_dir)
    close = difflib.get_close_matches(kind, ("digits", "folder", "tfds"), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(
        "A source must be tfds:NAME, tfds:NAME/CONFIG, folder:PATH or digits. Received "
        f"{source!r}.{hint}"
    )


# Digits.


def _digits(part: str, split: str | None) -> Images:
    """1,797 digits, written by 43 people; ink is 255, paper 0.

    Source: scikit-learn's `load_digits`, the test part of UCI's "Optical Recognition of
    Handwritten Digits" (Alpaydin and Kaynak 1998).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, held_out = train_test_split(
        np.arange(len(digits.target)),
        test_size=DIGITS_HELD_OUT,
        stratify=digits.target,
        random_state=DIGITS_SEED,
    )
    parts = {"train": train, "validation": held_out}
    split = split or _usual_split("digits", part, parts)
    chosen = _choose("digits", split, {p: digits.target[rows] for p, rows in parts.items()})
    numbers = np.concatenate([parts[p][rows] for p, rows in chosen])

    images = tf.constant(np.rint(digits.images[numbers, :, :, np.newaxis] * 255 / 16), tf.uint8)
    labels = tf.constant(digits.target[numbers], tf.int64)
    names = tf.constant([f"digits:{number}" for number in numbers])

    def at(index: tf.Tensor) -> Example:
        return {"image": images[index], "labels": labels[index][tf.newaxis], "name": names[index]}

    return Images(
        count=len(numbers),
        class_names=tuple(str(name) for name in digits.target_names),
        split=split,
        channels=1,
        mean=(0.5,),
        std=(0.5,),
        at=at,
    )


# Folders.


@dataclasses.dataclass(frozen=True)
class Folder:
    """The image files of class folders.

    Attributes:
        classes: names of the class folders, in label order.
        parts: for "train" and "validation", as far as they are there, its folder and the names of
            each class's files, sorted: bytes (files,), compact enough for millions.
        without_parts: whether the classes are in the source's own folder, as training images.
    """

    classes: tuple[str, ...]
    parts: dict[str, tuple[str, list[np.ndarray]]]
    without_parts: bool

    def labels(self, part: str) -> np.ndarray:
        """int32 (images,)."""
        files = self.parts[part][1]
        return np.repeat(np.arange(len(files), dtype=np.int32), [len(names) for names in files])


def list_folder(path: str) -> Folder:
    """Lists the images of a folder source.

    Files that are hidden or have none of `SUFFIXES` are passed over.

    Raises:
        ConfigError: if there are no classes or training images, or the classes of the parts differ.
    """
    path = os.path.expanduser(path)
    inside = _visible(path)
    folders = {}
    for part, names in _FOLDERS.items():
        there = [f"{path}/{name}" for name in names if name in inside]
        # A class may be called "train" too, but has images.
        if there and tf.io.gfile.isdir(there[0]) and not _images(there[0]).size:
            folders[part] = there[0]
    classes, parts = None, {}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # for folders far away
        for part, folder in (folders or {"train": path}).items():
            names = [name for name in _visible(folder) if not name.lower().endswith(SUFFIXES)]
            are_folders = pool.map(tf.io.gfile.isdir, [f"{folder}/{name}" for name in names])
            names = [name for name, is_folder in zip(names, are_folders, strict=True) if is_folder]
            if all(name.isdecimal() for name in names):
                names.sort(key=int)
            if classes not in (None, names):
                different = sorted({*classes} ^ {*names})
                raise ConfigError(
                    f"{path} must have the same class folders in all its parts. Only in one of them: "
                    f"{_some(different)}."
                )
            classes = names
            parts[part] = (folder, list(pool.map(_images, [f"{folder}/{n}" for n in names])))
    train = parts.get("train", ("", []))[1]
    empty = [classes[label] for label, files in enumerate(train) if not len(files)]
    if not classes:
        raise ConfigError(f"{path} has no class folders, nor such in train and val.")
    if empty:
        raise ConfigError(
            f"Class folders of {path} have no images ({' '.join(SUFFIXES)}): {_some(empty)}."
        )
    return Folder(tuple(classes), parts, without_parts=not folders)


def _visible(folder: str) -> list[str]:
    try:
        names = tf.io.gfile.listdir(folder)
    except (tf.errors.OpError, OSError) as error:
        raise ConfigError(f"The folder {folder} can't be read: {one_line(error)}") from None
    # Some of the remote file systems end the names of folders with a slash.
    return sorted(name.rstrip("/") for name in names if not name.startswith("."))


def _images(folder: str) -> np.ndarray:
    names = [name for name in _visible(folder) if name.lower().endswith(SUFFIXES)]
    return np.array([os.fsencode(name) for name in names], "S")


def _folder(path: str, part: str, split: str | None) -> Images:
    source, listing = f"folder:{path}", list_folder(path)
    if part == "evaluation" and listing.without_parts:
        split = split or "train"
    split = split or _usual_split(source, part, listing.parts)
    names, folders, labels, of_folder = [], [], [], []
    for chosen, rows in _choose(source, split, {p: listing.labels(p) for p in listing.parts}):
        folder, files = listing.parts[chosen]
        names.append(np.concatenate(files)[rows])
        labels.append(listing.labels(chosen)[rows])
        of_folder.append(len(folders) + labels[-1])
        folders += [f"{folder}/{name}/" for name in listing.classes]
    # They are captured by the functions of tf.data as tensors, not copied into their graphs.
    names = tf.constant(np.concatenate(names))
    labels = tf.constant(np.concatenate(labels))
    of_folder = tf.constant(np.concatenate(of_folder))
    folders = tf.constant(folders)

    def at(index: tf.Tensor) -> Example:
        name = folders[of_folder[index]] + names[index]
        label = tf.cast(labels[index], tf.int64)
        return {"image": tf.io.read_file(name), "labels": label[tf.newaxis], "name": name}

    return Images(count=len(names), split=split, at=at, **_named(listing.classes))


def _named(classes: Sequence[str]) -> dict[str, Any]:
    """The fields of `Images` for classes of these names; ImageNet's synsets get their English ones."""
    english = dict(zip(imagenet.synsets(), imagenet.labels(), strict=True))
    if not all(name in english for name in classes):
        return {"class_names": tuple(classes)}
    return {"class_names": tuple(english[name] for name in classes), "synsets": tuple(classes)}


# Splits.


def _choose(source: str, split: str, labels: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """The rows that a split takes of the parts whose images' labels are given, in their order."""
    import tensorflow_datasets as tfds

    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[len(rows)], num_bytes=0)
        for name, rows in labels.items()
    }
    try:
        slices = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    except (ValueError, NotImplementedError) as error:
        raise ConfigError(f"The split {split!r} of {source}: {one_line(error)}") from None
    chosen = [(s.splitname, _mixed(labels[s.splitname])[s.from_ : s.to]) for s in slices]
    if not any(len(rows) for _, rows in chosen):
        raise ConfigError(f"The split {split!r} of {source} has no images.")
    return [(name, np.sort(rows)) for name, rows in chosen]


def _usual_split(source: str, part: str, splits: Sequence[str]) -> str:
    name = next((name for name in _SPLITS[part] if name in splits), None)
    if name is None:
        option = "--split " if part == "evaluation" else f"{part}_split="
        example = f"{next(iter(splits))}[{':90%' if part == 'train' else '90%:'}]"
        raise ConfigError(
            f"{source} has no {part} images but {', '.join(splits)}. Say which to take, such as "
            f"`{option}{example}`."
        )
    return name


def _mixed(labels: np.ndarray) -> np.ndarray:
    """An order of the images in which every stretch has its share of each class; always the same."""
    random = np.random.RandomState(0)  # its numbers are the same in all versions of NumPy
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    shift = np.repeat(random.uniform(size=len(counts)), counts)
    place = (np.arange(len(labels)) - first + shift) / np.repeat(counts, counts)
    return by_class[np.argsort(place, kind="stable")]


# tensorflow_datasets.


def _tfds(name: str, part: str, split: str | None, data_dir: str | None) -> Images:
    import tensorflow_datasets as tfds

    source = f"tfds:{name}"
    builder = _prepared_builder(name, data_dir)
    keys, classes = _features(builder, source)
    named = _named(classes)
    splits = builder.info.splits
    split = (
        split or _OWN_SPLITS.get(builder.name, {}).get(part) or _usual_split(source, part, splits)
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
        raise ConfigError(f"{builder.data_path} lacks files of {source}: {_some(sorted(missing))}.")

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

        return Images(count=count, split=split, at=at, **named)

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

    return Images(count=count, split=split, stream=stream, **named)


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


# Messages.


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def one_line(error: Exception) -> str:
    """What an error says, for a message of one line."""
    return " ".join((getattr(error, "message", "") or str(error) or type(error).__name__).split())
