"""The paths where exports are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from keras_cvt._files import check_folder
from keras_cvt.export.formats import FORMATS, ExportError


def check(format: str, path: Path, version: int | None = None) -> Path:
    """Refuses a path where an export can't be written.

    Args:
        format: One of `FORMATS`.
        path: A file; for a SavedModel the folder of its versions.
        version: Of a SavedModel. Defaults to the next free one.

    Returns:
        The path to be written: for a SavedModel that of the version.

    Raises:
        ExportError: If it exists, or has another suffix than the format's.
        FileNotFoundError: If its folder does not exist.
    """
    check_folder(path)
    suffix = FORMATS[format].suffix
    if format == "savedmodel":
        number = next_version(path) if version is None else version
        if number < 1:
            raise ExportError(f"`version` must be at least 1. Received {number}.")
        path = path / str(number)
    elif path.suffix != suffix:
        raise ExportError(f"A file of the format {format!r} ends in {suffix}: not {path}.")
    companions = [path.with_suffix(".bin")] if format == "openvino" else []
    for file in [path, *companions]:
        if file.exists():
            raise ExportError(f"{file} exists and is kept: remove it, or give another path.")
    return path


def next_version(folder: Path) -> int:
    """The number after the last version in a model's folder; 1 if there is none."""
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; a SavedModel is a folder.")
    found = folder.iterdir() if folder.is_dir() else ()
    return 1 + max((int(path.name) for path in found if path.name.isdecimal()), default=0)


@contextlib.contextmanager
def folder_of_versions(folder: Path) -> Iterator[None]:
    """Makes a folder if there is none, and removes it if the body leaves it empty."""
    made = not folder.exists()
    folder.mkdir(exist_ok=True)
    try:
        yield
    finally:
        if made and not any(folder.iterdir()):
            folder.rmdir()


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
