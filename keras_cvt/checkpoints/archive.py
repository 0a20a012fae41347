"""Zip archives, in which torch and Keras store without compressing."""

from __future__ import annotations

import struct
import zipfile
from io import SEEK_CUR, SEEK_END, RawIOBase
from typing import Any

from keras_cvt.checkpoints.source import Record, Source, shown

_MAX_ZIP_DIRECTORY = 8 << 20


class Window(RawIOBase):
    """A part of a file as a file of its own, for parsers that want one."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        self._source, self._start, self._size, self._at = source, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + {SEEK_CUR: self._at, SEEK_END: self._size}.get(whence, 0)
        if at < 0:
            raise ValueError("a position before the start of the file")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")[: max(self._size - self._at, 0)]
        self._source.fill(self._start + self._at, view)
        self._at += len(view)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        # zipfile takes the size of the archive's table of contents from the archive, and its
        # objects need ten times the room.
        left = max(self._size - self._at, 0)
        size = left if size < 0 else min(size, left)
        if size > _MAX_ZIP_DIRECTORY:
            raise ValueError("the archive's table of contents is absurdly large")
        return super().read(size)


def zip_members(source: Source) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by name.

    Raises:
        CheckpointError: If it is damaged, or a name occurs twice.
    """
    try:
        with zipfile.ZipFile(Window(source, 0, source.size)) as archive:
            members = archive.infolist()
    # zipfile meets damage with a dozen kinds of exception.
    except Exception as error:
        raise source.error(f"damaged or cut off zip archive: {error}") from error
    result = {member.filename: member for member in members}
    if len(result) < len(members):
        raise source.error("a name occurs twice in the zip archive")
    return result


def zip_record(source: Source, member: zipfile.ZipInfo) -> Record:
    """Where a member's bytes lie. Nothing is ever decompressed: torch and Keras only store.

    Raises:
        CheckpointError: If it is compressed, encrypted, or lies outside the archive.
    """
    name = shown(member.filename)
    if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
        raise source.error(
            f"{name} is compressed in the zip archive, which torch and Keras never do"
        )
    if member.flag_bits & 1:
        raise source.error(f"{name} is encrypted")
    at, header = member.header_offset, struct.Struct("<4s22xHH")
    if 0 <= at <= source.size - header.size:
        signature, *lengths = header.unpack(source.read(at, header.size))
        start = at + header.size + sum(lengths)
        if signature == b"PK\x03\x04" and start + member.file_size <= source.size:
            return Record(member.filename, start, member.file_size, member.CRC)
    raise source.error(f"{name} lies outside the zip archive; is it cut off?")


def zip_text(source: Source, member: zipfile.ZipInfo, most: int) -> bytes:
    """The content of a small member, of at most `most` bytes.

    Raises:
        CheckpointError: If it is larger, damaged, or not stored as it is.
    """
    record = zip_record(source, member)
    if record.size > most:
        raise source.error(f"{shown(record.name)} is absurdly large, {record.size} bytes")
    source.check(record)
    return bytes(source.read(record.start, record.size))
