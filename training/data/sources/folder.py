"""Image files in class folders."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os

import numpy as np
import tensorflow as tf

from keras_cvt._messages import one_line, some
from training.config import ConfigError
from training.data.sources.source import SUFFIXES, Example, RandomAccess, named
from training.data.sources.splits import choose, usual_split

# The folders of a part; the first that is there is taken.
_FOLDERS = {"train": ("train",), "validation": ("val", "validation", "test")}


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
                    f"{some(different)}."
                )
            classes = names
            parts[part] = (folder, list(pool.map(_images, [f"{folder}/{n}" for n in names])))
    train = parts.get("train", ("", []))[1]
    empty = [classes[label] for label, files in enumerate(train) if not len(files)]
    if not classes:
        raise ConfigError(f"{path} has no class folders, nor such in train and val.")
    if empty:
        raise ConfigError(
            f"Class folders of {path} have no images ({' '.join(SUFFIXES)}): {some(empty)}."
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


def folder(path: str, part: str, split: str | None) -> RandomAccess:
    """Finds the images of class folders."""
    source, listing = f"folder:{path}", list_folder(path)
    if part == "evaluation" and listing.without_parts:
        split = split or "train"
    split = split or usual_split(source, part, listing.parts)
    names, folders, labels, of_folder = [], [], [], []
    for chosen, rows in choose(source, split, {p: listing.labels(p) for p in listing.parts}):
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

    return RandomAccess(count=len(names), split=split, at=at, **named(listing.classes))
