"""Turns images into record files, which are read faster than single files, and from far away.

    python -m training.prepare tfds:NAME[/CONFIG] [--data-dir DIR] [--tars DIR] [--format FORMAT]
    python -m training.prepare folder:PATH --output DIR [--format FORMAT] [--shard-size MB]
    python -m training.prepare tars:PATH --output DIR [--format FORMAT] [--shard-size MB]

`tfds:` runs the data set's own builder of tensorflow_datasets. Where the files can't be downloaded
without you, DIR of --tars has them: for imagenet2012, ILSVRC2012_img_train.tar and
ILSVRC2012_img_val.tar. The result is then the source `tfds:NAME`.

`folder:` takes the images of a source of that name, see `training.sources`. `tars:` takes ImageNet's
two tars, without unpacking them, or for other releases such as ImageNet-22k a folder of nXXXXXXXX.tar
or of tars of these. Both write what tensorflow_datasets reads, in an order shuffled once, images as
they are; the result is the source `tfds:DIR`. The same command again goes on where it was stopped, and
ends with the same bytes. Every image is decoded once: those that can't be are left out, and listed in
DIR/damaged.txt.

FORMAT is tfrecord (the default), which is read in long streams, or array_record, which can be read
in any order, from local disks.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from training import startup
from training.config import ConfigError, OneLineErrors
from training.files import replacing, write_text

# TensorFlow takes seconds to import: only after the command line is understood.

FORMATS = ("tfrecord", "array_record")
SHARD_SIZE = 256  # MB
SEED = 0  # of the images' order
THREADS = 16  # that read and check images
STATE = "prepare.json"

_CLASS_TAR = r"n\d{8}\.tar"
TRAIN_TAR, VALIDATION_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
# What the builders of tfds look for.
_TARS = {"imagenet2012": (TRAIN_TAR, VALIDATION_TAR), "imagenet2012_real": (VALIDATION_TAR,)}


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status: 0 done, 2 can't be done as asked, 130 interrupted."""
    try:
        arguments = _parser().parse_args(argv)
        kind, _, place = arguments.source.partition(":")
        _check(arguments, kind, place)
        startup.quiet_tensorflow()
        if kind == "tfds":
            result = prepare_tfds(place, arguments.data_dir, arguments.tars, arguments.format)
        else:
            read = {"folder": read_folder, "tars": read_tars}[kind]
            size = arguments.shard_size * 10**6
            result = write_records(*read(place), Path(arguments.output), arguments.format, size)
    except ConfigError as error:
        print(f"training.prepare: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        then = "begins anew" if kind == "tfds" else "goes on from here"
        print(f"\nInterrupted. The same command {then}.", file=sys.stderr)
        return 130
    print(result)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineErrors(
        prog="training.prepare", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("source", metavar="SOURCE", help="tfds:NAME, folder:PATH or tars:PATH")
    parser.add_argument("--output", metavar="DIR", help="for folder: and tars:")
    parser.add_argument("--data-dir", metavar="DIR", help="for tfds:, default: tfds' own")
    parser.add_argument("--tars", type=Path, metavar="DIR", help="for tfds:, files that you have")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    parser.add_argument(
        "--shard-size", type=int, metavar="MB", help=f"of a file, about; default {SHARD_SIZE}"
    )
    return parser


def _check(arguments: argparse.Namespace, kind: str, place: str) -> None:
    """Refuses options that don't fit the source, and completes the others."""
    if kind not in ("tfds", "folder", "tars") or not place:
        raise ConfigError(
            "What to prepare must be tfds:NAME, folder:PATH or tars:PATH. Received "
            f"{arguments.source!r}."
        )
    needless = ("output", "shard_size") if kind == "tfds" else ("data_dir", "tars")
    for option in needless:
        if getattr(arguments, option) is not None:
            raise ConfigError(f"{kind}: has no --{option.replace('_', '-')}.")
    if kind != "tfds" and (arguments.output is None or "://" in arguments.output):
        raise ConfigError(f"{kind}: needs --output DIR, a folder of this machine.")
    arguments.shard_size = SHARD_SIZE if arguments.shard_size is None else arguments.shard_size
    if arguments.shard_size < 1:
        raise ConfigError(f"--shard-size must be at least 1. Received {arguments.shard_size}.")


# By tensorflow_datasets.


def prepare_tfds(name: str, data_dir: str | None, tars: Path | None, file_format: str) -> str:
    """Runs tfds' own builder, which ends with a whole data set or none.

    Returns:
        Where the data set is, in a line.

    Raises:
        ConfigError: if there is no such data set, files are missing, or the builder fails.
    """
    import tensorflow_datasets as tfds

    from training import sources

    builder = sources.find_builder(name, data_dir)
    if sources.is_prepared(builder):
        there = builder.info.file_format.value
        if there != file_format:
            raise ConfigError(
                f"{builder.data_path} is there already, as {there}. To have it as {file_format}, give "
                "another --data-dir, or remove that folder."
            )
        return f"{builder.data_path} is there already: nothing to do."
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if tars is None:
            wanted = ", ".join(_TARS.get(builder.name, ())) or " ".join(
                builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split()
            )
            raise ConfigError(
                f"{name} needs --tars DIR, a folder with files that you have: {wanted}"
            )
        missing = [tar for tar in _TARS.get(builder.name, ()) if not (tars / tar).is_file()]
        if missing:
            raise ConfigError(f"{tars} must have {' and '.join(missing)}.")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(
            file_format=file_format,
            download_config=tfds.download.DownloadConfig(manual_dir=tars),
        )
    except Exception as error:  # of a server, the network, the disk, a damaged tar, the builder
        raise ConfigError(f"{name} can't be prepared: {sources.one_line(error)}") from error
    return f"{builder.data_path} is prepared: the source tfds:{name}."


# What there is.


@dataclasses.dataclass(frozen=True)
class Part:
    """Images that are still in their files.

    Attributes:
        labels: int32 (images,).
        names: bytes (images,), by which a person finds them.
        places: int64 (images, n), whatever says where the images are, besides their names.
        read: gives the content of an image's file, by its index.
    """

    labels: np.ndarray
    names: np.ndarray
    places: np.ndarray
    read: Callable[[int], bytes]

    def digest(self) -> str:
        """Another one for other images, as far as names, order and places tell."""
        digest = hashlib.sha256()
        for array in (self.labels, self.names, self.places):
            digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def content(self, index: int) -> bytes:
        """The content of an image's file.

        Raises:
            ConfigError: if it can't be read.
        """
        import tensorflow as tf

        from training import sources

        try:
            return self.read(index)
        except (OSError, tf.errors.OpError) as error:
            raise ConfigError(
                f"{os.fsdecode(self.names[index])} can't be read: {sources.one_line(error)} Once it "
                "can, the same command goes on."
            ) from None

    def checked(self, index: int) -> tuple[bytes, str | None]:
        """The content of an image's file, and why TensorFlow can't decode it, if so."""
        content = self.content(index)
        return content, _damage(content)


def _damage(content: bytes) -> str | None:
    """Why TensorFlow can't decode an image, or None."""
    import tensorflow as tf

    try:
        if content.startswith(b"\xff\xd8"):
            # All of the file is read, but little of the image computed.
            tf.io.decode_jpeg(content, channels=3, ratio=8)
        else:
            tf.io.decode_image(content, channels=3, expand_animations=False)
    except tf.errors.InvalidArgumentError as error:
        return re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*?\]", "", " ".join(error.message.split()))
    return None


def read_folder(path: str) -> tuple[tuple[str, ...], dict[str, Part]]:
    """The classes and the parts of a folder source.

    Raises:
        ConfigError: see `training.sources.list_folder`.
    """
    import tensorflow as tf

    from training import sources

    folder = sources.list_folder(path)

    def part(name: str) -> Part:
        root, files = folder.parts[name]
        names = np.concatenate(
            [
                np.char.add(os.fsencode(f"{class_name}/"), of_class)
                for class_name, of_class in zip(folder.classes, files, strict=True)
            ]
        )

        def read(index: int) -> bytes:
            return tf.io.read_file(os.fsencode(root) + b"/" + names[index]).numpy()

        labels = folder.labels(name)
        return Part(labels, names, np.zeros((len(labels), 0), np.int64), read)

    parts = {name: part(name) for name in folder.parts if len(folder.labels(name))}
    if not parts:
        raise ConfigError(f"{path} has no images.")
    return folder.classes, parts


def read_tars(path: str) -> tuple[tuple[str, ...], dict[str, Part]]:
    """The classes and the parts of ImageNet's tars, whose members are found but not yet read.

    A tar holds a member's bytes in one piece, so what is in a tar in a tar is read by its place in
    the outer one.

    Raises:
        ConfigError: if there are no such tars, or they are damaged or compressed.
    """
    from keras_cvt import imagenet

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
    import tensorflow_datasets as tfds

    labels = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
    members = _members(tar, 0, tar.stat().st_size)
    numbers = [re.fullmatch(r"ILSVRC2012_val_(\d{8})\.JPEG", name) for name, *_ in members]
    if not members or not all(number and 1 <= int(number[1]) <= len(labels) for number in numbers):
        raise ConfigError(
            f"{tar} must have ILSVRC2012_val_00000001.JPEG and so on, and nothing else."
        )
    synsets = np.array([labels[int(number[1]) - 1] for number in numbers], "S")
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


# Writing.


def write_records(
    classes: tuple[str, ...],
    parts: dict[str, Part],
    output: Path,
    file_format: str,
    shard_size: int,
) -> str:
    """Writes images to record files, as tfds has them; goes on where an earlier call was stopped.

    Args:
        classes: names, in label order.
        parts: "train" and "validation", as far as they are there.
        output: the folder, of which only this function writes. `prepare.json` in it says what is
            done.
        file_format: one of `FORMATS`.
        shard_size: bytes of a file, about.

    Returns:
        What is written, in a few lines.

    Raises:
        ConfigError: if the folder has something else, or an image's file can't be read.
    """
    import tensorflow as tf
    from tqdm import tqdm

    from training import sources

    plan = {
        "format": file_format,
        "shard_size": shard_size,
        "classes": hashlib.sha256("\n".join(classes).encode()).hexdigest(),
        "parts": {name: part.digest() for name, part in parts.items()},
    }
    state = _open_output(output, plan)
    if state is None:
        state = {
            "plan": plan,
            "files": {n: _files(p, shard_size) for n, p in parts.items()},
            "done": {},
        }
        write_text(output / STATE, json.dumps(state))

    jobs = []
    for name, part in parts.items():
        template, number = _template(output, name, file_format), state["files"][name]
        order = np.random.RandomState(SEED).permutation(len(part.labels))
        for shard, rows in enumerate(np.array_split(order, number)):
            path = Path(template.sharded_filepath(shard_index=shard, num_shards=number))
            jobs.append((name, path, rows))
    left = [job for job in jobs if not (job[1].name in state["done"] and job[1].is_file())]

    total, to_do = (sum(len(rows) for *_, rows in some) for some in (jobs, left))
    try:
        with (
            concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
            tqdm(total=total, initial=total - to_do, unit=" images", disable=None) as bar,
        ):
            for name, path, rows in left:
                contents = pool.map(parts[name].checked, rows)
                state["done"][path.name] = _write(
                    path, file_format, parts[name], rows, contents, bar
                )
                write_text(output / STATE, json.dumps(state))
    except (OSError, RuntimeError, tf.errors.OpError) as error:  # RuntimeError: of ArrayRecord
        raise ConfigError(
            f"{output} can't be written: {sources.one_line(error)} Once it can, the same command goes "
            "on."
        ) from error

    # What tfds reads first is written last.
    shards = {
        name: [state["done"][path.name] for n, path, _ in jobs if n == name] for name in parts
    }
    for name, of_part in shards.items():
        if not any(shard["images"] for shard in of_part):
            raise ConfigError(
                f"All {name} images are damaged, the first: {of_part[0]['damaged'][0]}"
            )
    damaged = sorted(line for of_part in shards.values() for s in of_part for line in s["damaged"])
    if damaged:
        write_text(output / "damaged.txt", "\n".join(damaged) + "\n")
    _write_metadata(output, classes, shards, file_format)
    counts = [f"{sum(s['images'] for s in of_part):,} {name}" for name, of_part in shards.items()]
    lines = [f"{output} has {' and '.join(counts)} images: the source tfds:{output.resolve()}."]
    if damaged:
        lines.append(f"{len(damaged):,} damaged images are left out, see {output / 'damaged.txt'}.")
    return "\n".join(lines)


def _open_output(output: Path, plan: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call has left in the folder, or None if nothing; makes it if need be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        if (output / STATE).exists():
            state = json.loads((output / STATE).read_text(encoding="utf-8"))
            there = state["plan"]
        elif any(output.iterdir()):
            raise ConfigError(f"{output} must be empty, or begun by training.prepare.")
        else:
            return None
    except (OSError, ValueError, KeyError, TypeError) as error:
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
        raise ConfigError(
            f"{output} was begun with other images: files have come, gone or been renamed since. "
            "Choose another --output, or remove that folder."
        )
    return state


def _files(part: Part, shard_size: int) -> int:
    """How many record files a part has, by the mean size of some of its images."""
    count = len(part.labels)
    some = np.random.RandomState(SEED).permutation(count)[:200]
    size = np.mean([len(part.content(row)) for row in some])
    return int(min(max(1, round(count * size / shard_size)), count))


def _template(output: Path, part: str, file_format: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.ShardedFileTemplate(
        data_dir=output, dataset_name="images", split=part, filetype_suffix=file_format
    )


def _write(
    path: Path, file_format: str, part: Part, rows: np.ndarray, contents: Iterator, bar: Any
) -> dict[str, Any]:
    """Writes a record file with these images; returns what is in it."""
    done = {"images": 0, "bytes": 0, "damaged": []}
    with replacing(path) as beside, _writer(beside, file_format) as write:
        for row, (content, damage) in zip(rows, contents, strict=True):
            name = part.names[row]
            if damage:
                done["damaged"].append(f"{path.name}: {os.fsdecode(name)}: {damage}")
            else:
                record = _record(content, int(part.labels[row]), name)
                write(record)
                done["images"] += 1
                done["bytes"] += len(record)
            bar.update()
    return done


@contextlib.contextmanager
def _writer(path: Path, file_format: str) -> Iterator[Callable[[bytes], None]]:
    if file_format == "tfrecord":
        import tensorflow as tf

        writer = tf.io.TFRecordWriter(str(path))
    else:
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(path), "group_size:1")  # for random access
    try:
        yield writer.write
    finally:
        writer.close()


def _record(content: bytes, label: int, name: bytes) -> bytes:
    """An example as the features of `_write_metadata` have it."""
    import tensorflow as tf

    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "file_name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    # Else the order of the features is another in each process.
    return example.SerializeToString(deterministic=True)


def _write_metadata(
    output: Path, classes: tuple[str, ...], shards: dict[str, list[dict]], file_format: str
) -> None:
    import tensorflow_datasets as tfds

    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name="images", version=tfds.core.Version("1.0.0"), data_dir=str(output), module_name=""
        ),
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=classes),
                "file_name": tfds.features.Text(),
            }
        ),
        supervised_keys=("image", "label"),
    )
    info.set_file_format(file_format)
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[shard["images"] for shard in of_part],
            num_bytes=sum(shard["bytes"] for shard in of_part),
            filename_template=_template(output, name, file_format),
        )
        for name, of_part in shards.items()
    ]
    info.set_splits(tfds.core.SplitDict(splits))
    with tempfile.TemporaryDirectory(dir=output) as beside:
        info.write_to_directory(beside)
        # dataset_info.json last: without it, there is no data set.
        for name in sorted(os.listdir(beside), key="dataset_info.json".__eq__):
            os.replace(os.path.join(beside, name), output / name)


if __name__ == "__main__":
    sys.exit(main())
