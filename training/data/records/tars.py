"""The images of ImageNet's tars."""

from __future__ import annotations

import dataclasses
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_cvt import imagenet
from training import _internal
from training.config import ConfigError
from training.data.records.part import Part

_CLASS_TAR = r"n\d{8}\.tar"

TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def read_tars(path: str) -> tuple[tuple[str, ...], dict[str, Part]]:
    """The classes and the parts of ImageNet's tars, whose members are found but not yet read.

    A tar holds a member's bytes in one piece, so what is in a tar in a tar is read by its place in
    the outer one.

    Raises:
        ConfigError: if there are no such tars, or they are damaged or compressed.
    """
    folder = Path(path).expanduser()
    train, validation = folder / TRAIN_TAR, folder / VALIDATION_TAR
    parts = {}
    if train.is_file() or validation.is_file():
        classes = imagenet.synsets()
        if train.is_file():
            parts["train"] = _part(train, list(_classes_in(train)), classes)
        if validation.is_file():
            parts["validation"] = _part(validation, [_labelled(validation)], classes)
    else:
        found = [files for tar in sorted(folder.glob("*.tar")) for files in _classes_in(tar)]
        classes = tuple(sorted({files.synsets[0].decode() for files in found}))
        if not classes:
            raise ConfigError(
                f"{folder} must have {TRAIN_TAR} or {VALIDATION_TAR}, or tars of classes "
                "(nXXXXXXXX.tar), or tars of these."
            )
        parts["train"] = _part(folder, found, classes)
    return classes, parts


@dataclasses.dataclass(frozen=True)
class _Files:
    """Files in a tar: bytes (files,), bytes (files,), int64 (files, 2) for begin and size."""

    tar: Path
    synsets: np.ndarray
    names: np.ndarray
    places: np.ndarray


def _classes_in(tar: Path) -> Iterator[_Files]:
    """The images of a class's tar, or of the classes' tars in a tar."""
    inside = [(tar.name, 0, tar.stat().st_size)]
    if not re.fullmatch(_CLASS_TAR, tar.name):
        print(f"Looking through {tar}.", flush=True)
        inside = _members(tar, *inside[0][1:])
    for name, begin, size in inside:
        if not re.fullmatch(_CLASS_TAR, name):
            raise ConfigError(
                f"{tar} must have only tars of classes (nXXXXXXXX.tar). It has {name}."
            )
        if images := _members(tar, begin, size):
            names, *places = zip(*images, strict=True)
            synsets = np.full(len(names), os.fsencode(name.removesuffix(".tar")))
            yield _Files(tar, synsets, np.array(names, "S"), np.array(places, np.int64).T)


def _labelled(tar: Path) -> _Files:
    """The validation images, whose classes are listed by the numbers of their names."""
    synset_of = _internal.imagenet_validation_synsets()
    members = _members(tar, 0, tar.stat().st_size)
    numbers = [re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name) for name, *_ in members]
    if not members or not all(
        number and 1 <= int(number[1]) <= len(synset_of) for number in numbers
    ):
        raise ConfigError(
            f"{tar} must have ILSVRC2012_val_00000001.JPEG and so on, and nothing else."
        )
    synsets = np.array([synset_of[int(number[1]) - 1] for number in numbers], "S")
    names, *places = zip(*members, strict=True)
    return _Files(tar, synsets, np.array(names, "S"), np.array(places, np.int64).T)


def _members(tar: Path, begin: int, size: int) -> list[tuple[str, int, int]]:
    """Name, begin and size of the files in a tar, which is itself at this place in a file."""
    members = []
    try:
        with open(tar, "rb") as file:
            file.seek(begin)  # tarfile counts from there, but from the file's beginning
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.offset >= begin + size:  # not in it any more
                        break
                    if member.offset_data + member.size > begin + size:
                        raise tarfile.ReadError(f"{member.name} is cut off")
                    if member.isfile():
                        name = os.path.basename(member.name)
                        members.append((name, member.offset_data, member.size))
    except (OSError, tarfile.TarError) as error:
        raise ConfigError(f"{tar} can't be read as an uncompressed tar: {error}") from None
    return members


def _part(where: Path, found: list[_Files], classes: tuple[str, ...]) -> Part:
    if not found:
        raise ConfigError(f"{where} has no images.")
    tars = [files.tar for files in found]
    synsets = np.concatenate([files.synsets for files in found])
    names = np.concatenate([files.names for files in found])
    places = np.concatenate(
        [np.insert(files.places, 0, place, axis=1) for place, files in enumerate(found)]
    )
    known = np.array(classes, "S")
    labels = np.minimum(np.searchsorted(known, synsets), len(known) - 1).astype(np.int32)
    if (unknown := synsets[known[labels] != synsets]).size:
        raise ConfigError(f"{where} has a class that ImageNet-1k has not: {unknown[0].decode()}.")
    once, counts = np.unique(names, return_counts=True)
    if (twice := once[counts > 1]).size:
        raise ConfigError(f"{where} has {twice[0].decode()} more than once.")

    def read(index: int) -> bytes:
        tar, begin, size = places[index]
        with open(tars[tar], "rb") as file:
            file.seek(begin)
            return file.read(size)

    return Part(labels, names, places, read)
