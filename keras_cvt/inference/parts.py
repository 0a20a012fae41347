"""The output of a job that can be gone on with: a plan, and a Parquet part for each chunk of it.

    DIR/_plan.parquet         the paths of all inputs; each of its row groups is a chunk
    DIR/part-000000.parquet   the answers of the first chunk, a row for each path, in order

The plan is written first. A part appears whole or not at all, under a name that its chunk decides: who
computes a chunk twice replaces a part by the same one. So after any kill, what is missing is what has
no part, and there is exactly one row for each input.

Readers of Parquet folders pass over `_plan.parquet`, for its underscore.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_cvt._files import PREFIX, json_text, replacing
from keras_cvt._messages import one_line
from keras_cvt.inference import remote
from keras_cvt.inference.tasks import sources_digest

if TYPE_CHECKING:
    import pyarrow as pa

PLAN = "_plan.parquet"
_PART = re.compile(r"part-(\d{6,})\.parquet")
_KEY = b"keras_cvt"

# Of a remote store that shows an object only when it is complete.
_WHOLE_OBJECTS = ("s3", "gcs", "abfs")

_SMALLEST, _LARGEST, _CHUNKS = 64, 2048, 64


class OutputError(ValueError):
    """A folder has something else in it than what was begun here. The message is one line."""


def chunk_size(images: int, batch_size: int) -> int:
    """How many images make a chunk: enough chunks for many workers, whole batches, and no more lost
    with a worker than some minutes of its work."""
    size = min(max(-(-images // _CHUNKS), _SMALLEST), _LARGEST)
    return -(-size // batch_size) * batch_size


@dataclasses.dataclass(frozen=True)
class Parts:
    """A folder of parts, here or behind a remote URL.

    Attributes:
        url: A path, or a URL such as `s3://bucket/answers`.
    """

    url: str

    @property
    def is_local(self) -> bool:
        return not remote.is_remote(self.url)

    def begin(
        self,
        sources: Sequence[str],
        options: dict[str, str],
        batch_size: int,
        chunk: int | None = None,
    ) -> None:
        """Writes the plan; or checks that it is the one that is there.

        Args:
            sources: All inputs.
            options: What decides the answers, by name.
            batch_size: Chunks are whole batches.
            chunk: How many inputs a chunk has. Defaults to None: `chunk_size`, so that many workers
                have some, and little is lost with one.

        Raises:
            OutputError: If the folder has the parts of other inputs or options, or other files.
            OSError: If it can't be written, or the bucket is not there.
        """
        facts = {
            "options": options,
            "images": len(sources),
            "inputs": sources_digest(sources),
        }
        found = self._facts()
        if found is not None:
            self._check(found, facts)
            return
        if names := self._names():
            raise OutputError(
                f"{self.url} has files in it, such as {min(names)}, but no plan: give a new folder."
            )
        chunk = chunk or chunk_size(len(sources), batch_size)
        self._write(PLAN, _plan(sources, facts, chunk))

    def _check(self, found: dict, wanted: dict) -> None:
        changed = sorted(
            name
            for name in {**found["options"], **wanted["options"]}
            if found["options"].get(name) != wanted["options"].get(name)
        )
        if changed:
            raise OutputError(
                f"{self.url} was begun with another {', '.join(changed)}: give another --output, or "
                "the options of then."
            )
        if (found["images"], found["inputs"]) != (wanted["images"], wanted["inputs"]):
            raise OutputError(
                f"{self.url} was begun with other inputs, {found['images']:,} images; now there are "
                f"{wanted['images']:,}. Give another --output for these."
            )

    @functools.cached_property
    def _plan_file(self):
        from pyarrow import parquet

        system, path = self._place(PLAN)
        return parquet.ParquetFile(path, filesystem=system)

    def _facts(self) -> dict | None:
        """What the plan says; None if there is none."""
        remote.file_system(self.url)  # whose error says enough
        try:
            metadata = self._plan_file.metadata.metadata or {}
            return json.loads(metadata[_KEY])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OSError(f"{self.url} can't be read: {one_line(error)}") from error
        except (ValueError, KeyError) as error:  # pyarrow's errors of a file are ValueErrors
            raise OutputError(f"{self.url}/{PLAN} is not a plan: {one_line(error)}") from None

    @property
    def chunks(self) -> int:
        """How many there are."""
        return self._plan_file.num_row_groups

    def sources(self, chunk: int) -> list[str]:
        """The inputs of a chunk."""
        column = self._plan_file.read_row_group(chunk).column("path")
        return [os.fsdecode(path) for path in column.to_pylist()]

    def size(self, chunk: int) -> int:
        """How many inputs a chunk has."""
        return self._plan_file.metadata.row_group(chunk).num_rows

    def unfinished(self) -> list[int]:
        """The chunks without a part."""
        done = {int(found[1]) for name in self._names() if (found := _PART.fullmatch(name))}
        return [chunk for chunk in range(self.chunks) if chunk not in done]

    def errors(self, chunks: Iterable[int]) -> int:
        """How many rows of written parts have an error."""
        from pyarrow import parquet

        found = 0
        for chunk in chunks:
            system, path = self._place(_name(chunk))
            column = parquet.read_table(path, columns=["error"], filesystem=system).column("error")
            found += len(column) - column.null_count
        return found

    def write(self, chunk: int, table: pa.Table) -> None:
        """Writes the part of a chunk, whole or not at all.

        Raises:
            OSError: As of a full disk. The message is one line and names the part.
        """
        from pyarrow import parquet

        content = io.BytesIO()
        parquet.write_table(table, content, compression="zstd")
        self._write(_name(chunk), content.getvalue())

    def _place(self, name: str):
        system, folder = remote.file_system(self.url)
        return system, f"{folder}/{name}"

    def _names(self) -> list[str]:
        """What is in the folder, without what killed processes left; it may not be there."""
        from pyarrow import fs

        if self.is_local:
            path = Path(self.url)
            names = os.listdir(path) if path.exists() else []
        else:
            system, path = remote.file_system(self.url)
            try:
                found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
            except OSError as error:
                raise OSError(f"{self.url} can't be listed: {one_line(error)}") from error
            names = [info.base_name for info in found]
        return [name for name in names if not name.startswith(PREFIX)]

    def _write(self, name: str, content: bytes) -> None:
        if self.is_local:
            path = Path(self.url, name)
            path.parent.mkdir(exist_ok=True)
            with replacing(path, durable=True) as temporary:
                temporary.write_bytes(content)
            return
        system, path = self._place(name)
        try:
            if system.type_name in _WHOLE_OBJECTS:
                with system.open_output_stream(path) as stream:
                    stream.write(content)
                return
            folder = path.rsplit("/", 1)[0]
            system.create_dir(folder)
            temporary = f"{folder}/{PREFIX}{name}-{uuid.uuid4().hex}"
            with system.open_output_stream(temporary) as stream:
                stream.write(content)
            system.move(temporary, path)
        except OSError as error:
            raise OSError(f"{self.url}/{name} can't be written: {one_line(error)}") from error


def _name(chunk: int) -> str:
    return f"part-{chunk:06d}.parquet"


def _plan(sources: Sequence[str], facts: dict, size: int) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([("path", pa.binary())], {_KEY: json_text(facts).encode()})
    content = io.BytesIO()
    with parquet.ParquetWriter(content, schema, compression="zstd") as writer:
        for start in range(0, len(sources), size):
            paths = [os.fsencode(path) for path in sources[start : start + size]]
            writer.write_table(pa.table({"path": paths}, schema=schema), row_group_size=size)
    return content.getvalue()
