"""The classes and images of a run: what its checkpoints say of them, and what has changed since."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_cvt._files import replacing
from keras_cvt._messages import some
from training.data import RunData

PARTS = ("train", "validation")


def describe(images: RunData) -> dict[str, Any]:
    """The classes and images of a run, in so few words that each checkpoint has them.

    Returns:
        What JSON can hold: "classes", their names in label order; and for "train" and "validation" the
        number of "images" and the "digest" of their names.
    """
    parts = {name: getattr(images, name) for name in PARTS}
    return {
        "classes": list(images.class_ids),
        **{
            name: {
                "images": source.count,
                "digest": source.contents and source.contents.digest(),
            }
            for name, source in parts.items()
        },
    }


def digest(description: dict[str, Any]) -> str:
    """A digest of all that `describe` tells."""
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()


def write(images: RunData, path: Path) -> None:
    """Writes the names of a run's images, for `differences`; nothing if the file has them already."""
    lines = b"".join(
        b"%s\t%s\n" % (name.encode(), line) for name in PARTS for line in _lines(images, name)
    )
    if path.exists() and _read(path) == lines:
        return
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(lines, compresslevel=1, mtime=0))


def differences(
    before: dict[str, Any], now: dict[str, Any], images: RunData, lists: Sequence[Path]
) -> list[str]:
    """What has changed between two descriptions, in words; nothing if they are equal.

    Args:
        before, now: What `describe` returned.
        images: Those that `now` describes.
        lists: Files that `write` may have written when the description was `before`. The first that
            belongs to it tells the names of images.
    """
    if before["classes"] != now["classes"]:
        return [_changed_classes(before["classes"], now["classes"])]
    return [
        _changed_images(name, before[name], now[name], _lines(images, name), lists)
        for name in PARTS
        if before[name] != now[name]
    ]


def _changed_classes(before: list[str], now: list[str]) -> str:
    gone = [name for name in before if name not in {*now}]
    new = [name for name in now if name not in {*before}]
    if not gone and not new:
        label = next(
            i for i, names in enumerate(zip(before, now, strict=True)) if len({*names}) > 1
        )
        return (
            f"The order of the classes: label {label} was {before[label]!r} and is {now[label]!r}"
        )
    if len(gone) == len(new) == 1:
        return f"The class {gone[0]!r} is gone, and there is {new[0]!r}"
    found = (("gone", gone), ("new", new))
    return f"Classes that are {_counted(found)}"


def _changed_images(
    name: str, before: dict[str, Any], now: dict[str, Any], lines: Sequence[bytes], lists
) -> str:
    what = f"{'Training' if name == 'train' else 'Validation'} images"
    for path in lists:
        old = [line for line in _part_of(path, name) if line]
        if hashlib.sha256(b"\n".join(old)).hexdigest() == before["digest"]:
            found = (("gone", {*old} - {*lines}), ("new", {*lines} - {*old}))
            if not any(names for _, names in found):
                return f"{what}: their order"
            shown = [
                (word, sorted(line.decode(errors="replace") for line in f)) for word, f in found
            ]
            return f"{what} that are {_counted(shown)}"
    counts = f"{before['images']:,} then, {now['images']:,} now"
    return f"{what}: {counts}, with other names or in another order"


def _counted(found: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Such as "gone: 1 (a), new: 4 (b, c, d and 1 more)"."""
    return ", ".join(f"{word}: {len(names)} ({some(names)})" for word, names in found if names)


def _lines(images: RunData, name: str) -> list[bytes]:
    found = getattr(images, name).contents
    return [] if found is None else [*found.lines()]


def _part_of(path: Path, name: str) -> list[bytes]:
    """The lines of a part in a file that `write` wrote; none if there is no such file."""
    start = name.encode() + b"\t"
    lines = _read(path).split(b"\n")
    return [line.removeprefix(start) for line in lines if line.startswith(start)]


def _read(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return b""
