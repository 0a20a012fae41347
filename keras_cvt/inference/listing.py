"""Which images a job is for: files, folders, globs, lists of paths, here or behind a remote URL."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import os
from collections.abc import Iterable

from keras_cvt._messages import one_line
from keras_cvt.images.formats import SUFFIXES
from keras_cvt.images.listing import LeftOut, is_hidden, list_images, shown, why_left_out
from keras_cvt.inference import remote

LISTS = (".txt", ".parquet")
COLUMN = "path"


@dataclasses.dataclass
class Found:
    """The images to look at.

    Attributes:
        images: Paths and URLs.
        left_out: What is in the folders and is not taken.
        empty: Folders and globs in which nothing can be taken, and why.
    """

    images: list[str] = dataclasses.field(default_factory=list)
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)
    empty: dict[str, str] = dataclasses.field(default_factory=dict)


def find_images(sources: Iterable[str | os.PathLike]) -> Found:
    """Finds images.

    - Files and URLs are taken as they are given. A file that is not there is taken too: reading it
      will say so, and the others go on.
    - Of folders, what `list_images` lists; of remote ones, such as `s3://bucket/photos`, the same.
    - Of globs, such as `photos/**/*.jpg`, what matches, in the order of the names.
    - Of a list, a file that ends in .txt (a path on each line) or .parquet (with a column "path"), the
      paths in it, whatever they are: they are not looked for.

    Args:
        sources: Paths and URLs of these.

    Raises:
        OSError: If a list or a remote folder can't be read.
        ValueError: If a list is none.
        ModuleNotFoundError: If a source needs pyarrow, which is not installed.
    """
    found = Found()
    for source in map(os.fspath, sources):
        if source.lower().endswith(LISTS):
            found.images += read_list(source)
        elif remote.is_remote(source):
            _find_remote(source, found)
        elif "://" in source or os.path.lexists(source) or not glob.has_magic(source):
            _find_local(source, found)
        else:
            matches = sorted(glob.glob(source, recursive=True))
            for match in matches:
                _find_local(match, found)
            if not matches:
                found.empty[source] = f"{shown(source)}: nothing matches"
    return found


def _find_local(source: str, found: Found) -> None:
    if "://" in source or not os.path.isdir(source):
        found.images.append(source)
        return
    try:
        inside, left_out = list_images(source)
    except OSError as error:
        found.empty[source] = f"{shown(source)}: the folder cannot be read: {error}"
        return
    found.left_out.update(left_out)
    found.images += [os.path.join(source, *name.split("/")) for name in inside]
    if not inside:
        why = f": {left_out}" if left_out else ", the folder is empty"
        found.empty[source] = f"{shown(source)}: no images to read{why}"


def _find_remote(source: str, found: Found) -> None:
    """Takes a remote file as it is given; of a folder or a glob, the pictures."""
    from pyarrow import fs

    pattern = None
    folder = source
    if glob.has_magic(source):
        whole = [part for part in source.split("/")]
        first = next(i for i, part in enumerate(whole) if glob.has_magic(part))
        folder, pattern = "/".join(whole[:first]), "/".join(whole[first:])
    system, path = remote.file_system(folder)
    try:
        info = system.get_file_info(path)
        if info.type != fs.FileType.Directory and pattern is None:
            found.images.append(source)
            return
        entries = system.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise OSError(f"{source} can't be listed: {one_line(error)}") from error
    taken, left_out = [], LeftOut()
    for entry in entries:
        below = entry.path.removeprefix(path).lstrip("/")
        if entry.type != fs.FileType.File:
            continue
        if any(map(is_hidden, below.split("/"))):
            left_out.add("hidden")
        elif pattern is not None:
            if fnmatch.fnmatchcase(below, pattern):
                taken.append(below)
        elif below.lower().endswith(SUFFIXES):
            taken.append(below)
        else:
            left_out.add(why_left_out(below.rsplit("/", 1)[-1]))
    found.left_out.update(left_out)
    found.images += [
        f"{folder.rstrip('/')}/{below}" for below in sorted(taken, key=lambda p: p.split("/"))
    ]
    if not taken:
        why = (
            "nothing matches" if pattern else f"no images to read{f': {left_out}' * bool(left_out)}"
        )
        found.empty[source] = f"{source}: {why}"


def read_list(source: str) -> list[str]:
    """The paths in a text file, one on each line, or in the column "path" of a Parquet file.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is not such a file, or has no paths.
    """
    if source.lower().endswith(".txt"):
        if remote.is_remote(source):
            content = remote.read(source)
        else:
            with open(source, "rb") as file:
                content = file.read()
        # Names of files need not be text.
        lines = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf")).splitlines()
        paths = [line for line in lines if line.strip()]
    else:
        import pyarrow
        from pyarrow import parquet

        system, path = remote.file_system(source)
        try:
            file = parquet.ParquetFile(path, filesystem=system)
            if COLUMN not in file.schema_arrow.names:
                raise ValueError(
                    f"{source} must have a column {COLUMN!r}. It has "
                    f"{', '.join(file.schema_arrow.names) or 'none'}."
                )
            column = file.read(columns=[COLUMN]).column(COLUMN)
        except pyarrow.ArrowInvalid as error:
            raise ValueError(f"{source} is not a Parquet file: {one_line(error)}") from None
        paths = [os.fsdecode(path) for path in column.to_pylist() if path]
    if not paths:
        raise ValueError(f"{source} has no paths in it.")
    return paths
