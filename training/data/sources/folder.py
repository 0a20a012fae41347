"""Image files in class folders."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_cvt._messages import look_alike, one_line, some
from keras_cvt._validation import check_class_name
from keras_cvt.images import listing
from keras_cvt.images.formats import GRAPH_SUFFIXES, SUFFIXES
from keras_cvt.images.listing import LeftOut, list_images, shown
from training.config import ConfigError
from training.data.sources.contents import Contents, file_line, place
from training.data.sources.source import Example, RandomAccess, named
from training.data.sources.splits import choose, usual_split

# The folders of a part; the first that is there is taken.
_FOLDERS = {"train": ("train",), "validation": ("val", "valid", "validation", "test")}

# What others call a part, in lower case. As a class folder with folders in it, it is no class.
_OTHER_PARTS = {*sum(_FOLDERS.values(), ()), "training", "dev", "eval", "evaluation", "testing"}

_IS_FOLDER = (listing.FOLDER, listing.LINKED_FOLDER)


@dataclasses.dataclass(frozen=True)
class Folder:
    """The image files of class folders.

    Attributes:
        classes: names of the class folders, in label order.
        parts: for "train" and "validation", as far as they are there, its folder and the names of
            each class's files, sorted: bytes (files,), compact enough for millions.
        without_parts: whether the classes are in the source's own folder, as training images.
        left_out: for each part, what is in its folder and is not an image of a class.
    """

    classes: tuple[str, ...]
    parts: dict[str, tuple[str, list[np.ndarray]]]
    without_parts: bool
    left_out: dict[str, LeftOut]

    def labels(self, part: str) -> np.ndarray:
        """int32 (images,)."""
        files = self.parts[part][1]
        return np.repeat(np.arange(len(files), dtype=np.int32), [len(names) for names in files])

    def say_left_out(self, parts: Iterable[str]) -> str:
        """Says what is left out of some parts, in one line; "" if nothing is."""
        said = [f"{self.parts[p][0]}: {self.left_out[p]}." for p in parts if self.left_out[p]]
        return " ".join(said)


def list_folder(path: str) -> Folder:
    """Lists the images of a folder source, by the rule of `keras_cvt.images.listing`.

    Raises:
        ConfigError: If there are no classes, a class has no images, the classes of the parts differ,
            or a folder can't be read.
    """
    path = os.path.expanduser(path)
    with _one_line_errors(path), concurrent.futures.ThreadPoolExecutor(16) as pool:
        folders, beside = _parts(path)
        classes, parts, left_out = None, {}, {}
        for part, folder in (folders or {"train": path}).items():
            names, left_out[part] = _class_folders(folder)
            if not folders:
                _check_no_parts(path, names)
            if classes not in (None, names):
                different = sorted({*classes} ^ {*names})
                raise ConfigError(
                    f"{path} must have the same class folders in all its parts. Only in one of them: "
                    f"{some(different)}.{look_alike(different)}"
                )
            classes = names
            # In threads, for folders far away.
            listed = list(pool.map(_images, [f"{folder}/{name}" for name in names]))
            _check_classes(folder, names, listed, part)
            parts[part] = (folder, [files for files, _ in listed])
            for _, left_out_of_class in listed:
                left_out[part].update(left_out_of_class)
    if not classes:
        raise ConfigError(f"{path} has no class folders, nor such in train and val.")
    if "train" in left_out:
        left_out["train"].update(beside)
    return Folder(tuple(classes), parts, not folders, left_out)


def _parts(path: str) -> tuple[dict[str, str], LeftOut]:
    """Finds the folders of the parts; and what else is beside them, if there are any."""
    found = dict(_scan(path))
    folders = {}
    for part, names in _FOLDERS.items():
        name = next((name for name in names if found.get(name) in _IS_FOLDER), None)
        if name is None:
            continue
        kinds = dict(_scan(f"{path}/{name}"))
        images = [n for n, kind in kinds.items() if _is_image(n, kind)]
        inside = [n for n, kind in kinds.items() if kind in _IS_FOLDER and not listing.is_hidden(n)]
        if images and inside:
            raise ConfigError(
                f"{path}/{name} must have either class folders or, if it is itself a class, images. "
                f"It has the folder {shown(inside[0])} and the image {shown(images[0])}."
            )
        if not images:  # else it is a class that is called so
            folders[part] = f"{path}/{name}"
    beside = LeftOut()
    for name, kind in found.items() if folders else ():
        if f"{path}/{name}" not in folders.values():
            _leave_out(beside, name, kind, f"neither {' nor '.join(map(_name, folders.values()))}")
    return folders, beside


def _class_folders(folder: str) -> tuple[list[str], LeftOut]:
    """Finds the names of the class folders, in label order; and what is beside them."""
    names, left_out = [], LeftOut()
    for name, kind in _scan(folder):
        if kind not in _IS_FOLDER or listing.is_hidden(name):
            _leave_out(left_out, name, kind, "outside the class folders")
        elif kind is listing.LINKED_FOLDER and listing.leads_up(f"{folder}/{name}"):
            left_out.add(listing.CIRCLE, f"{folder}/{name}", folder=True)
        else:
            names.append(name)
    places: dict[str, str] = {}
    for name in sorted(names):
        try:
            check_class_name(name)
        except ValueError as error:
            raise ConfigError(f"The class folder {folder}/{shown(name)}: {error}") from None
        other = places.setdefault(_real_place(place(folder), name), name)
        if other != name:
            raise ConfigError(
                f"Each class must have its own folder. {other} and {name} in {folder} are the same "
                "one: one is a link."
            )
    return sorted(names), left_out


def _real_place(root: str, name: str) -> str:
    """The place of a class folder in `root`: another one's, if it is a link."""
    path = f"{root}/{name}"
    return place(path) if os.path.islink(path) else path


def _check_no_parts(path: str, classes: Iterable[str]) -> None:
    """Refuses parts under names that are not known, which would be taken for classes.

    Raises:
        ConfigError: If one of the class folders is called like a part, and has folders in it.
    """
    for name in classes:
        if name.lower() not in _OTHER_PARTS:
            continue
        inside = [n for n, kind in _scan(f"{path}/{name}") if kind in _IS_FOLDER]
        if inside := [n for n in inside if not listing.is_hidden(n)]:
            raise ConfigError(
                f"{path}/{name} has the folders {some(sorted(map(shown, inside)))}: is it a part with "
                f"class folders, or a class? Parts must be called {', '.join(_FOLDERS['train'])} and "
                f"{' or '.join(_FOLDERS['validation'])}."
            )


def _leave_out(left_out: LeftOut, name: str, kind: str, reason: str) -> None:
    """Notes what is not in a class folder; `reason` is that of images and folders."""
    if listing.is_hidden(name):
        left_out.add("hidden", folder=kind in _IS_FOLDER)
    elif kind in _IS_FOLDER or _is_image(name, kind):
        left_out.add(reason, name, folder=kind in _IS_FOLDER)
    else:
        left_out.add(listing.why_left_out(name))


def _check_classes(
    folder: str, classes: list[str], listed: list[tuple[np.ndarray, LeftOut]], part: str
) -> None:
    """Refuses classes without images; for validation, only those that have what can't be read."""
    empty = [
        f"{name} ({left_out or 'empty'})"
        for name, (files, left_out) in zip(classes, listed, strict=True)
        if not len(files) and (part == "train" or {*left_out.reasons} - {"hidden"})
    ]
    if empty:
        raise ConfigError(f"Class folders of {folder} have no images: {some(empty)}.")


def _images(folder: str) -> tuple[np.ndarray, LeftOut]:
    names, left_out = list_images(folder, _scan)
    return np.array([os.fsencode(name) for name in names], "S"), left_out


def _is_image(name: str, kind: str) -> bool:
    is_file = kind in (listing.FILE, listing.BROKEN_LINK) and not listing.is_hidden(name)
    return is_file and name.lower().endswith(SUFFIXES)


def _scan(folder: str) -> Iterator[tuple[str, str]]:
    """Gives what is in a folder, here or far away: a `keras_cvt.images.listing.Scan`."""
    if "://" not in folder:
        yield from listing.scan_folder(folder)
        return
    try:
        names = tf.io.gfile.listdir(folder)
    except tf.errors.PermissionDeniedError as error:
        raise PermissionError(error.message) from None
    for name in names:
        # Google's storage ends the names of folders with a slash. Others have to be asked.
        bare, is_folder = name.rstrip("/"), name.endswith("/")
        if not is_folder and not folder.startswith("gs://") and not _is_image(bare, listing.FILE):
            is_folder = tf.io.gfile.isdir(f"{folder}/{bare}")
        if bare:
            yield bare, listing.FOLDER if is_folder else listing.FILE


@contextlib.contextmanager
def _one_line_errors(path: str) -> Iterator[None]:
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        what = getattr(error, "filename", None) or path
        raise ConfigError(f"The folder {what} can't be read: {one_line(error)}") from None


def _name(folder: str) -> str:
    return folder.rpartition("/")[2]


def folder(path: str, part: str, split: str | None) -> RandomAccess:
    """Finds the images of class folders."""
    source, listed = f"folder:{path}", list_folder(path)
    if part == "evaluation" and listed.without_parts:
        split = split or "train"
    split = split or usual_split(source, part, listed.parts)
    names, folders, labels, of_folder, taken = [], [], [], [], []
    chosen = choose(source, split, {part: listed.labels(part) for part in listed.parts})
    for part, rows in chosen:
        folder, files = listed.parts[part]
        taken.append((folder, [len(of_class) for of_class in files], rows))
        names.append(np.concatenate(files)[rows])
        labels.append(listed.labels(part)[rows])
        of_folder.append(len(folders) + labels[-1])
        folders += [os.fsencode(f"{folder}/{name}/") for name in listed.classes]
    names, labels = np.concatenate(names), np.concatenate(labels)
    graph_suffixes = tuple(map(str.encode, GRAPH_SUFFIXES))
    other = next((name for name in names if not name.lower().endswith(graph_suffixes)), b"")
    contents = Contents(
        lines=functools.partial(_lines, listed.classes, labels, names),
        taken=functools.partial(_taken, listed.classes, taken),
    )
    # They are captured by the functions of tf.data as tensors, not copied into their graphs.
    names, labels = tf.constant(names), tf.constant(labels)
    of_folder = tf.constant(np.concatenate(of_folder))
    folders = tf.constant(folders)

    def at(index: tf.Tensor) -> Example:
        name = folders[of_folder[index]] + names[index]
        label = tf.cast(labels[index], tf.int64)
        return {"image": tf.io.read_file(name), "labels": label[tf.newaxis], "name": name}

    left_out = listed.say_left_out(dict.fromkeys(part for part, _ in chosen))
    return RandomAccess(
        count=len(names),
        split=split,
        left_out=left_out,
        needs_pillow=os.fsdecode(other),
        contents=contents,
        at=at,
        **named(listed.classes),
    )


def _taken(
    classes: Sequence[str], parts: Sequence[tuple[str, list[int], np.ndarray]]
) -> dict[str, np.ndarray]:
    """Those of `Contents`, for (folder, files of each class, rows) of each part."""
    found: dict[str, list[np.ndarray]] = {}
    for folder, counts, rows in parts:
        root, ends = place(folder), np.cumsum(counts)
        edges = np.searchsorted(rows, ends - counts), np.searchsorted(rows, ends)
        for name, count, end, first, last in zip(classes, counts, ends, *edges, strict=True):
            real = _real_place(root, name)
            found.setdefault(real, []).append(rows[first:last] - (end - count))
    return {folder: np.concatenate(rows) for folder, rows in found.items()}


def _lines(classes: Sequence[str], labels: np.ndarray, names: np.ndarray) -> Iterator[bytes]:
    """The lines of `Contents`."""
    for label, name in zip(labels.tolist(), names.tolist(), strict=True):
        yield file_line(classes[label], name)
