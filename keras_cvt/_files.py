"""Files that are complete or not there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def check_folder(path: Path) -> None:
    """Refuses a file to write whose folder is not there, before the work that ends in it."""
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to write {path.name} in.")


def check_file(path: Path) -> None:
    """The same; and refuses a folder in the place of the file."""
    check_folder(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; it must be a file.")


@contextlib.contextmanager
def beside(destination: Path) -> Iterator[Path]:
    """A file to write in the same folder, renamed to its destination when it is complete."""
    temporary = destination.with_name(f".{secrets.token_hex(4)}.{destination.name}")
    try:
        yield temporary
        os.replace(temporary, destination)
    finally:
        temporary.unlink(missing_ok=True)
