"""Which files of a folder are pictures: the one rule of training, preparation and prediction.

All folders below are searched, linked ones too, as torchvision's `ImageFolder` and Keras's
`image_dataset_from_directory` do. What is hidden is passed over, and so is what has not the suffix of
a picture format, in upper or lower case. Nothing is passed over silently: see `LeftOut`.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_cvt._messages import some
from keras_cvt.images.formats import REFUSED, SUFFIXES

# What can be in a folder. The last two are left out for being that.
FILE, FOLDER, LINKED_FOLDER = "file", "folder", "linked folder"
BROKEN_LINK, SPECIAL = "behind a broken link", "not a regular file"
CIRCLE = "linked to a folder that it is in"  # another reason to leave something out

# Gives the name of each thing in a folder, and which of the above it is. A `PermissionError` leaves
# the folder out; other errors end the listing.
Scan = Callable[[str], Iterator[tuple[str, str]]]

# What Windows hides, besides what begins with a dot.
_HIDDEN = ("thumbs.db", "desktop.ini", "$recycle.bin", "__macosx")

_MOST_REASONS = 6  # in one line


@dataclasses.dataclass
class LeftOut:
    """What a listing has passed over, by reason.

    Attributes:
        reasons: For each reason, how many files and folders it left out.
        names: For the reasons that a user would want to look into, the paths.
        folders: How many of all were folders.
    """

    reasons: dict[str, int] = dataclasses.field(default_factory=dict)
    names: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    folders: int = 0

    def add(self, reason: str, name: str | None = None, folder: bool = False) -> None:
        """Counts a file or a folder; `name` is its path, if it should be told."""
        self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.folders += folder
        if name is not None:
            self.names.setdefault(reason, []).append(name)

    def update(self, other: LeftOut) -> None:
        """Adds what another listing has passed over."""
        for reason, count in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count
        for reason, names in other.names.items():
            self.names.setdefault(reason, []).extend(names)
        self.folders += other.folders

    def __bool__(self) -> bool:
        return bool(self.reasons)

    def __str__(self) -> str:
        """Says it in one line: "2 files were left out: 1 hidden, 1 .txt"."""
        files = sum(self.reasons.values()) - self.folders
        counts = [(files, "file"), (self.folders, "folder")]
        counted = [f"{n:,} {what}{'s' * (n > 1)}" for n, what in counts if n]
        were = "was" if files + self.folders == 1 else "were"
        return f"{' and '.join(counted)} {were} left out: {self.why()}"

    def why(self) -> str:
        """Says the reasons alone: "1 hidden, 1 .txt"."""
        most = sorted(self.reasons.items(), key=lambda reason: (-reason[1], reason[0]))
        said = []
        for reason, count in most[:_MOST_REASONS]:
            names = sorted(self.names.get(reason, ()))
            said.append(
                f"{count:,} {reason}" + (f" ({some([*map(shown, names)])})" if names else "")
            )
        if more := sum(count for _, count in most[_MOST_REASONS:]):
            said.append(f"{more:,} of other kinds")
        return ", ".join(said)


def shown(name: str) -> str:
    """A file's name as it can be printed: bytes that are not UTF-8, and line breaks, are escaped."""
    name = "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else ascii(c)[1:-1] for c in name
    )
    return os.fsencode(name).decode(errors="backslashreplace")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is one that its system does not show."""
    return name.startswith(".") or name.lower() in _HIDDEN


def scan_folder(folder: str) -> Iterator[tuple[str, str]]:
    """Gives what is in a folder of this machine: a `Scan`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            # Only a link costs another call of the system.
            if entry.is_file(follow_symlinks=False):
                yield entry.name, FILE
            elif entry.is_symlink():
                yield entry.name, _kind_of_link(entry.path)
            else:
                yield entry.name, FOLDER if entry.is_dir() else SPECIAL


def _kind_of_link(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
            return BROKEN_LINK
        raise
    return LINKED_FOLDER if stat.S_ISDIR(mode) else FILE if stat.S_ISREG(mode) else SPECIAL


def list_images(folder: str, scan: Scan = scan_folder) -> tuple[list[str], LeftOut]:
    """Lists the pictures in a folder, and in all folders below it.

    Args:
        folder: Its path.
        scan: Lists one folder. Defaults to `scan_folder`; pass another for remote folders.

    Returns:
        The paths below the folder, with "/" between their parts, in the order of these; and what is
        left out, whose paths begin with the folder's.

    Raises:
        OSError: If a folder can't be listed. One that may not be read is only left out, unless it
            is `folder` itself.
    """
    found: list[str] = []
    left_out = LeftOut()
    todo = [""]
    while todo:
        below = todo.pop()
        try:
            for name, kind in scan(f"{folder}/{below[:-1]}" if below else folder):
                path = f"{below}{name}"
                if kind is FILE and name.lower().endswith(SUFFIXES) and name[0] != ".":
                    found.append(path)
                elif is_hidden(name):
                    left_out.add("hidden", folder=kind in (FOLDER, LINKED_FOLDER))
                elif kind is FILE:
                    left_out.add(why_left_out(name))
                elif kind is FOLDER:
                    todo.append(f"{path}/")
                elif kind is not LINKED_FOLDER:
                    left_out.add(kind, f"{folder}/{path}")
                elif leads_up(f"{folder}/{path}"):
                    left_out.add(CIRCLE, f"{folder}/{path}", folder=True)
                else:
                    todo.append(f"{path}/")
        except PermissionError:
            if not below:
                raise
            left_out.add("not permitted", f"{folder}/{below[:-1]}", folder=True)
    # As paths are sorted: so the files of each folder are successive.
    if any("/" in path for path in found):
        return sorted(found, key=lambda path: path.split("/")), left_out
    return sorted(found), left_out


def why_left_out(name: str) -> str:
    """Why a file's name is not a picture's: its suffix, and what is wrong with it, if we know."""
    suffix = os.path.splitext(name)[1].lower()
    if not suffix:
        return "without a suffix"
    return shown(suffix) + (f" ({REFUSED[suffix]})" if suffix in REFUSED else "")


def leads_up(link: str) -> bool:
    """Whether a linked folder is one that the link is in, so that following it would not end."""
    where = Path(link).absolute().parent
    above = {where, *where.parents, where.resolve(), *where.resolve().parents}
    return any(os.path.samefile(link, folder) for folder in above)
