"""Record files, as tensorflow_datasets has them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_cvt._files import read_json, replacing, write_json, write_text
from keras_cvt._messages import one_line, some
from keras_cvt.images.listing import shown
from training import _internal
from training.config import ConfigError
from training.data.records import manifest
from training.data.records.part import Part
from training.data.storage import StorageError
from training.locking import NAME as LOCK
from training.locking import FolderLock

SEED = 0  # of the images' order

THREADS = 16  # that read and check images

_GOES_ON = " Once it can, the same command goes on."


def write_records(
    classes: tuple[str, ...],
    parts: dict[str, Part],
    output: Path,
    file_format: str,
    shard_size: int,
) -> str:
    """Writes images to record files that tfds reads; resumes where an earlier call was stopped.

    Args:
        classes: Names, in label order.
        parts: "train" and "validation", as far as they are there.
        output: A folder in which nothing else writes. `prepare.json` in it says what is done.
        file_format: "tfrecord" or "array_record".
        shard_size: Bytes of a file, about.

    Returns:
        What is written, in a few lines.

    Raises:
        ConfigError: If the folder has something else, or another process writes there.
        StorageError: If an image's file can't be read, or the folder can't be written.
    """
    with FolderLock(output, option="--output"), _faults_told(output):
        plan = {
            "format": file_format,
            "shard_size": shard_size,
            "classes": manifest.digest(classes),
            "parts": {name: part.digest() for name, part in parts.items()},
        }
        state = _open_output(output, plan)
        if state is None:
            files = {name: _number_of_files(part, shard_size) for name, part in parts.items()}
            state = {"plan": plan, "files": files, "done": {}}
            write_json(output / manifest.NAME, state)
        jobs = [
            _Job(name, _internal.record_path(output, name, file_format, shard, number), rows)
            for name, number in state["files"].items()
            for shard, rows in enumerate(np.array_split(_order(parts[name]), number))
        ]
        _write_missing(jobs, parts, output, file_format, state)
        shards = {
            name: [state["done"][job.path.name] for job in jobs if job.part == name]
            for name in parts
        }
        for name, of_part in shards.items():
            if not any(shard["images"] for shard in of_part):
                raise ConfigError(
                    f"All {name} images are damaged, the first: {of_part[0]['damaged'][0]}"
                )
        damaged = sorted(
            line for of_part in shards.values() for s in of_part for line in s["damaged"]
        )
        if damaged:
            write_text(output / "damaged.txt", "\n".join(damaged) + "\n")
        # What tfds reads first is written last.
        _internal.write_dataset_info(output, classes, shards, file_format)
    return _summary(classes, parts, output, shards, len(damaged))


@contextlib.contextmanager
def _faults_told(output: Path) -> Iterator[None]:
    """Says in a line what keeps files from being read or written, and that the work can go on."""
    try:
        yield
    except StorageError as error:
        raise StorageError(f"{error}{_GOES_ON}") from None
    except (OSError, RuntimeError, tf.errors.OpError) as error:  # RuntimeError: of ArrayRecord
        reason = one_line(error).rstrip(".")
        raise StorageError(f"{output} can't be written: {reason}.{_GOES_ON}") from error


def _summary(
    classes: tuple[str, ...],
    parts: dict[str, Part],
    output: Path,
    shards: dict[str, list[dict[str, Any]]],
    damaged: int,
) -> str:
    """Says in a few lines what is written, and what is left out."""
    counts = [f"{sum(s['images'] for s in of_part):,} {name}" for name, of_part in shards.items()]
    lines = [f"{output} has {' and '.join(counts)} images: the source tfds:{output.resolve()}."]
    if damaged:
        lines.append(f"{damaged:,} damaged images are left out, see {output / 'damaged.txt'}.")
        for name, of_part in shards.items():
            if lost := _lost_classes(classes, parts[name], of_part):
                lines.append(f"There are no {name} images of {some(lost)}.")
    return "\n".join(lines)


def _lost_classes(classes: tuple[str, ...], part: Part, shards: list[dict[str, Any]]) -> list[str]:
    """The classes of which all images are damaged."""
    # Earlier versions did not note the labels.
    damaged = Counter(label for shard in shards for label in shard.get("damaged_labels", ()))
    counts = Counter(part.labels.tolist())
    return [classes[label] for label, count in sorted(damaged.items()) if count == counts[label]]


@dataclasses.dataclass(frozen=True)
class _Job:
    """A record file to write: its part, its path, and the images in it."""

    part: str
    path: Path
    rows: np.ndarray


def _order(part: Part) -> np.ndarray:
    """Shuffles a part's images, always the same way."""
    return np.random.RandomState(SEED).permutation(len(part.labels))


def _write_missing(
    jobs: list[_Job],
    parts: dict[str, Part],
    output: Path,
    file_format: str,
    state: dict[str, Any],
) -> None:
    """Writes the record files that an earlier call has not, and notes each when it is complete."""
    missing = [job for job in jobs if not _is_done(job.path, file_format, state["done"])]
    total, to_do = (sum(len(job.rows) for job in which) for which in (jobs, missing))
    with (
        concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
        tqdm(total=total, initial=total - to_do, unit=" images", disable=None) as bar,
    ):
        for job in missing:
            part = parts[job.part]
            contents = pool.map(part.checked, job.rows)
            state["done"][job.path.name] = _write(
                job.path, file_format, part, job.rows, contents, bar
            )
            write_json(output / manifest.NAME, state)


def _is_done(path: Path, file_format: str, done: dict[str, Any]) -> bool:
    """Whether a record file is there as an earlier call has written it."""
    if path.name not in done or not path.is_file():
        return False
    noted = done[path.name]
    if "size" in noted:
        return noted["size"] == path.stat().st_size
    # An earlier version noted the size and the checksum of no file.
    try:
        noted.update(_checked(path, file_format, noted))
    except IncompleteError:
        return False
    return True


def _open_output(output: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Returns what an earlier call has left in the folder, or None; makes the folder if need be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        if (output / manifest.NAME).exists():
            state = read_json(output / manifest.NAME)
            if not all(isinstance(state[key], dict) for key in ("plan", "files", "done")):
                raise TypeError
            there = {key: state["plan"][key] for key in plan}
        elif any(path.name != LOCK for path in output.iterdir()):
            raise ConfigError(f"{output} must be empty, or begun by training.prepare.")
        else:
            return None
    except (KeyError, TypeError):
        raise ConfigError(
            f"{output / manifest.NAME} must be as training.prepare writes it. Choose another --output, "
            "or remove that folder."
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"The folder {output} can't be used: {error}") from None
    for option in ("format", "shard_size"):
        if there[option] != plan[option]:
            raise ConfigError(
                f"{output} was begun with another {option} ({there[option]} there, {plan[option]} "
                "asked). Choose another --output, or remove that folder."
            )
    if there != plan:
        others = "images: files have come, gone or been renamed since"
        if there.get("classes") != plan["classes"]:
            others = "classes, or in another order: class folders are sorted as text"
        raise ConfigError(
            f"{output} was begun with other {others}. Choose another --output, or remove that folder."
        )
    return state


def _number_of_files(part: Part, shard_size: int) -> int:
    """Decides how many record files a part has, by the mean size of some of its images."""
    count = len(part.labels)
    sample = _order(part)[:200]
    size = np.mean([len(part.content(row)) for row in sample])
    return int(min(max(1, round(count * size / shard_size)), count))


def _write(
    path: Path, file_format: str, part: Part, rows: np.ndarray, contents: Iterator, bar: Any
) -> dict[str, Any]:
    """Writes a record file with these images; returns what is in it, and which are damaged."""
    done = {"images": 0, "bytes": 0, "damaged": [], "damaged_labels": []}
    with replacing(path) as temporary:
        with _writer(temporary, file_format) as write:
            for row, (content, damage) in zip(rows, contents, strict=True):
                name = part.names[row]
                if damage:
                    done["damaged"].append(f"{path.name}: {shown(os.fsdecode(name))}: {damage}")
                    done["damaged_labels"].append(int(part.labels[row]))
                else:
                    record = _record(content, int(part.labels[row]), name)
                    write(record)
                    done["images"] += 1
                    done["bytes"] += len(record)
                bar.update()
        done.update(_checked(temporary, file_format, done))
    return done


class IncompleteError(OSError):
    """A record file without the records that were written to it."""


def _checked(path: Path, file_format: str, written: dict[str, Any]) -> dict[str, Any]:
    """Reads a record file, whose records have checksums; returns its size and its checksum.

    Raises:
        IncompleteError: If it does not have as many images and bytes as were written.
    """
    try:
        sizes = [len(record) for record in _records(path, file_format)]
    except (RuntimeError, tf.errors.DataLossError) as error:  # RuntimeError: of ArrayRecord
        raise IncompleteError(f"{path.name} was not written as it should be: {error}") from None
    if (len(sizes), sum(sizes)) != (written["images"], written["bytes"]):
        raise IncompleteError(
            f"{path.name} was not written as it should be: it has {len(sizes)} records with "
            f"{sum(sizes)} bytes, not {written['images']} with {written['bytes']}"
        )
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def _records(path: Path, file_format: str) -> Iterator[bytes]:
    if file_format == "tfrecord":
        yield from tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        return
    from array_record.python.array_record_module import ArrayRecordReader  # not on Windows

    with contextlib.closing(ArrayRecordReader(str(path), "")) as reader:
        if not reader.ok():
            raise RuntimeError("it is damaged")
        for record in range(reader.num_records()):
            yield reader.read([record])[0]


@contextlib.contextmanager
def _writer(path: Path, file_format: str) -> Iterator[Callable[[bytes], None]]:
    if file_format == "tfrecord":
        writer = tf.io.TFRecordWriter(str(path))
    else:
        from array_record.python.array_record_module import ArrayRecordWriter  # not on Windows

        writer = ArrayRecordWriter(str(path), "group_size:1")  # for random access
    try:
        yield writer.write
    finally:
        writer.close()


def _record(content: bytes, label: int, name: bytes) -> bytes:
    """Serializes an example, with the features of `write_dataset_info`."""
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # Else the order of the features is another in each process.
    return example.SerializeToString(deterministic=True)
