"""Files that are complete or not there."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write a file or a folder to, and then renames it to `path`.

    Whoever looks at `path`, also after a crash, sees the old content or the new, never a part of
    it. (A folder that was there is removed just before: for a moment there is none.) If the body
    fails, what was there stays, and what was written goes.
    """
    # In the same folder, so that renaming is one step; with the same ending, which decides a format.
    # The name is always the same: what a killed process has left is written over.
    beside = path.with_name(f".partial-{path.name}")
    _remove(beside)
    try:
        yield beside
        if beside.is_dir():
            _remove(path)  # renaming replaces a file, but no folder that has something in it
        os.replace(beside, path)
    finally:
        _remove(beside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
