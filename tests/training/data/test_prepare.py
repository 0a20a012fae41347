"""Tests of training/prepare.py: all images arrive, each once, whatever stops the program."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import imagenet_tars
import pytest
from programs import CHECKOUT

from keras_cvt.imagenet import labels as english
from keras_cvt.imagenet import synsets
from training import prepare
from training.config import ConfigError
from training.data import sources, storage
from training.data.records import writer
from training.data.records.folder import read_folder
from training.data.records.tars import TRAIN_TAR, VALIDATION_TAR
from training.locking import FolderLock


def run(*arguments: object) -> int:
    return prepare.main([str(argument) for argument in arguments])


def examples(images: sources.Source) -> dict[str, tuple[bytes, list[int]]]:
    """Image and labels by name."""
    data = images.examples()
    found = [(e["name"].decode(), (e["image"], [*e["labels"]])) for e in data.as_numpy_iterator()]
    assert len(found) == len(dict(found)) == images.count
    return dict(found)


def write_files(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


FILES = {
    f"{part}/{class_name}/{i:02} é.{kind.lower()}": imagenet_tars.photo(1000 * label + i, kind)
    for part, count in (("train", 15), ("val", 4))
    for label, class_name in enumerate(("ant lion", "bee"))
    for i, kind in zip(range(count), ("JPEG", "PNG", "WEBP") * 5, strict=False)
}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_folder_becomes_record_files(tmp_path, capfd, file_format):
    folder = write_files(tmp_path / "images", FILES)
    output = tmp_path / "records"
    assert run(f"folder:{folder}", "--output", output, "--format", file_format) == 0
    out, err = capfd.readouterr()
    assert f"30 train and 8 validation images: the source tfds:{output}" in out
    assert "images/s" not in err  # a progress bar only on a terminal
    assert not (output / "damaged.txt").exists()
    for part, in_files in (("train", "train"), ("validation", "val")):
        images = sources.load(f"tfds:{output}", part)
        assert images.class_names == ("ant lion", "bee")
        assert isinstance(images, sources.Stream) == (file_format == "tfrecord")
        assert examples(images) == {
            name.removeprefix(f"{in_files}/"): (content, [int("bee" in name)])
            for name, content in FILES.items()
            if name.startswith(in_files)
        }
    # In a shuffled order, so that classes are mixed in every stretch.
    order = [labels for _, labels in examples(sources.load(f"tfds:{output}", "train")).values()]
    assert order != sorted(order)

    # Again: nothing is written that was there.
    before = {path: path.stat().st_mtime_ns for path in output.glob("*record*")}
    assert run(f"folder:{folder}", "--output", output, "--format", file_format) == 0
    assert {path: path.stat().st_mtime_ns for path in output.glob("*record*")} == before


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from training.data.records import writer
from training.data.records.folder import read_folder

record, calls = writer._record, itertools.count()

def record_or_die(*arguments):
    if next(calls) == 20:  # two files and a half
        os.kill(os.getpid(), signal.SIGKILL)
    return record(*arguments)

writer._record = record_or_die
folder, output, file_format, shard_size = sys.argv[1:]
writer.write_records(*read_folder(folder, Path(output)), Path(output), file_format, int(shard_size))
"""


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, file_format):
    folder = write_files(tmp_path / "images", FILES)
    shard_size = sum(map(len, FILES.values())) // 5

    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, folder, killed, file_format, shard_size]
    process = subprocess.run(
        [str(part) for part in command], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    left = contents(killed)
    assert [name for name in sorted(left) if f".{file_format}-" in name and name[0] != "."] == [
        f"images-train.{file_format}-{i:05}-of-00004" for i in range(2)
    ]
    partial = f"images-train.{file_format}-00002-of-00004"
    assert f".partial-{partial}/{partial}" in left
    assert "dataset_info.json" not in left

    whole = tmp_path / "whole"
    for output in (killed, whole):
        writer.write_records(*read_folder(str(folder), output), output, file_format, shard_size)
    assert contents(killed) == contents(whole)
    assert sum(f".{file_format}-" in name for name in contents(whole)) == 5
    assert sources.load(f"tfds:{killed}", "train").count == 30


def test_more_record_files_than_may_be_open(tmp_path):
    folder = write_files(tmp_path / "images", FILES)
    writer.write_records(
        *read_folder(str(folder), tmp_path / "out"), tmp_path / "out", "array_record", 1
    )
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    now_open = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (now_open + 10, limits[1]))
    try:
        assert len(examples(sources.load(f"tfds:{tmp_path / 'out'}", "train"))) == 30
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_folder_that_has_changed_is_refused(tmp_path, capsys):
    folder = write_files(tmp_path / "images", FILES)
    output = tmp_path / "records"
    assert run(f"folder:{folder}", "--output", output) == 0
    before = contents(output)
    assert run(f"folder:{folder}", "--output", output, "--format", "array_record") == 2
    assert "another format (tfrecord there, array_record asked)" in capsys.readouterr().err
    assert run(f"folder:{folder}", "--output", output, "--shard-size", 1) == 2
    assert "another shard_size" in capsys.readouterr().err
    (folder / "val/bee/new.jpg").write_bytes(imagenet_tars.photo(1))
    assert run(f"folder:{folder}", "--output", output) == 2
    assert "files have come, gone or been renamed" in capsys.readouterr().err
    assert contents(output) == before

    mine = write_files(tmp_path / "mine", {"thesis.txt": b"all of it"})
    assert run(f"folder:{folder}", "--output", mine) == 2
    assert "must be empty" in capsys.readouterr().err
    assert contents(mine) == {"thesis.txt": b"all of it"}


def test_damaged_images_are_left_out_and_listed(tmp_path, capsys):
    good = imagenet_tars.photo(1)
    damaged = {"a/cut.jpg": good[: len(good) // 2], "a/text.png": b"hello", "b/empty.gif": b""}
    files = {
        "a/1.jpg": good,
        "a/png.jpg": imagenet_tars.photo(2, "PNG"),
        "b/2.jpg": good,
        **damaged,
    }
    folder = write_files(tmp_path / "images", files)
    output = tmp_path / "records"
    assert run(f"folder:{folder}", "--output", output) == 0
    assert "3 damaged images are left out" in capsys.readouterr().out
    lines = (output / "damaged.txt").read_text().splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == sorted(damaged)
    assert "Truncated" in next(line for line in lines if "cut.jpg" in line)
    assert {*examples(sources.load(f"tfds:{output}", "train"))} == {*files} - {*damaged}
    for file_format in prepare.FORMATS:  # also where a file has damaged images only
        output = tmp_path / file_format
        writer.write_records(*read_folder(str(folder), output), output, file_format, 1)
        assert {*examples(sources.load(f"tfds:{output}", "train"))} == {*files} - {*damaged}

    nothing = write_files(tmp_path / "nothing", {"a/1.jpg": b"no image"})
    assert run(f"folder:{nothing}", "--output", tmp_path / "other") == 2
    assert "All train images are damaged" in capsys.readouterr().err
    assert not (tmp_path / "other" / "dataset_info.json").exists()


def two_images(tmp_path: Path) -> Path:
    photos = {f"a/{number}.jpg": imagenet_tars.photo(number) for number in (1, 2)}
    return write_files(tmp_path / "images", photos)


def test_a_file_that_can_not_be_read_stops_it_until_it_can(tmp_path, capsys, monkeypatch):
    folder, output, list_folder = two_images(tmp_path), tmp_path / "records", sources.list_folder

    def lost_when_listed(path: str) -> sources.Folder:
        listed = list_folder(path)
        (folder / "a/2.jpg").rename(tmp_path / "away")
        return listed

    monkeypatch.setattr(storage, "DELAYS", (0.01, 0.01))
    monkeypatch.setattr(sources, "list_folder", lost_when_listed)
    assert run(f"folder:{folder}", "--output", output) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("training.prepare: error: a/2.jpg can't be read: ")
    assert last.endswith("No such file or directory. Once it can, the same command goes on.")
    monkeypatch.undo()
    (tmp_path / "away").rename(folder / "a/2.jpg")
    assert run(f"folder:{folder}", "--output", output) == 0
    assert sources.load(f"tfds:{output}", "train").count == 2


def test_a_link_to_nothing_does_not_stop_it(tmp_path, capsys):
    folder = two_images(tmp_path)
    (folder / "a/3.jpg").symlink_to(folder / "gone")
    assert run(f"folder:{folder}", "--output", tmp_path / "records") == 0
    assert f"1 behind a broken link ({folder}/a/3.jpg)" in capsys.readouterr().out
    assert sources.load(f"tfds:{tmp_path / 'records'}", "train").count == 2


def test_two_at_once(tmp_path, capsys):
    folder, output = two_images(tmp_path), tmp_path / "records"
    with FolderLock(output):
        assert run(f"folder:{folder}", "--output", output) == 2
        error = capsys.readouterr().err
        assert f"{output} is being written by process {os.getpid()} on " in error
        assert "another --output" in error and error.count("\n") == 1
        assert [*contents(output)] == ["lock"]
    assert run(f"folder:{folder}", "--output", output) == 0
    assert "lock" not in contents(output)


def test_record_files_do_not_become_a_class(tmp_path, capsys):
    folder = two_images(tmp_path)
    for output in (folder / "records", folder / "a"):
        assert run(f"folder:{folder}", "--output", output) == 2
        assert f"--output must be outside {folder}, which has" in capsys.readouterr().err
    assert [*contents(folder)] == ["a/1.jpg", "a/2.jpg"]


def test_a_class_of_which_no_image_is_left_is_named(tmp_path, capsys):
    folder = two_images(tmp_path)
    write_files(folder, {"b/1.jpg": b"no picture", "b/2.jpg": b""})
    assert run(f"folder:{folder}", "--output", tmp_path / "records") == 0
    assert "\nThere are no train images of b.\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("dataset_info.json", '"2"', '"3"', r"is of other record files: .* has 2 images, not 3\."),
        ("label.labels.txt", "a\nb", "b\na", "not those that were prepared, in their order: b, a"),
    ],
)
def test_what_says_what_is_in_record_files_is_theirs(tmp_path, name, old, new, said):
    folder, output = two_images(tmp_path), tmp_path / "records"
    (folder / "b").mkdir()
    shutil.move(folder / "a" / "2.jpg", folder / "b")
    assert run(f"folder:{folder}", "--output", output) == 0
    sources.load(f"tfds:{output}", "train")
    text = (output / name).read_text()
    assert old in text
    (output / name).write_text(
        text.replace(old, new)
    )  # as of a copy of two data sets into one folder
    with pytest.raises(ConfigError, match=said):
        sources.load(f"tfds:{output}", "train")


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
@pytest.mark.parametrize("noted", ["size", "nothing"])
def test_a_record_file_that_is_cut_off(tmp_path, capsys, file_format, noted):
    folder, output = two_images(tmp_path), tmp_path / "records"
    command = (f"folder:{folder}", "--output", output, "--format", file_format)
    assert run(*command) == 0
    whole = contents(output)
    (file,) = output.glob("*record-0*")
    size = file.stat().st_size
    os.truncate(file, size - 5)
    if noted == "nothing":  # as by earlier versions
        state = json.loads((output / "prepare.json").read_text())
        for key in ("size", "sha256"):
            del state["done"][file.name][key]
        (output / "prepare.json").write_text(json.dumps(state))
    else:
        message = rf"not as they were written: {file.name} \({size - 5:,} bytes of {size:,}\)"
        with pytest.raises(ConfigError, match=message):
            sources.load(f"tfds:{output}", "train")
    assert run(*command) == 0
    assert contents(output) == whole
    os.truncate(file, 0)
    (output / "prepare.json").unlink()
    with pytest.raises(ConfigError, match=rf"{file.name} \(0 bytes\)"):
        sources.load(f"tfds:{output}", "train")


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_what_was_not_written_whole_is_not_there(tmp_path, capsys, monkeypatch, file_format):
    folder, output = two_images(tmp_path), tmp_path / "records"
    command = (f"folder:{folder}", "--output", output, "--format", file_format)
    make = writer._writer

    @contextlib.contextmanager
    def forgetful(*args):
        with make(*args) as write:
            forget = iter([True, False])
            yield lambda record: None if next(forget) else write(record)

    monkeypatch.setattr(writer, "_writer", forgetful)
    assert run(*command) == 1
    error = capsys.readouterr().err
    assert "was not written as it should be: it has 1 records" in error and error.count("\n") == 1
    assert [*contents(output)] == ["prepare.json"]
    monkeypatch.undo()
    assert run(*command) == 0


@pytest.mark.parametrize(
    "text", ["[1]", '{"plan": "x", "files": {}, "done": {}}', "{}", "nonsense"]
)
def test_a_manifest_of_something_else(tmp_path, capsys, text):
    output = write_files(tmp_path / "records", {"prepare.json": text.encode()})
    assert run(f"folder:{two_images(tmp_path)}", "--output", output) == 2
    error = capsys.readouterr().err
    assert str(output) in error and error.count("\n") == 1
    assert contents(output) == {"prepare.json": text.encode()}


@pytest.mark.parametrize("what", ["write_json", "_internal.write_dataset_info", "_record"])
def test_a_full_disk(tmp_path, capsys, monkeypatch, what):
    folder, output = two_images(tmp_path), tmp_path / "records"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"training.data.records.writer.{what}", full)
    assert run(f"folder:{folder}", "--output", output) == 1
    error = capsys.readouterr().err
    assert f"{output} can't be written: [Errno 28] No space left on device" in error
    assert ". Once it can, the same command goes on." in error
    assert error.count("\n") == 1 and not (output / "dataset_info.json").exists()
    monkeypatch.undo()
    assert run(f"folder:{folder}", "--output", output) == 0


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    return imagenet_tars.write(tmp_path_factory.mktemp("tars"))


TRAIN = {
    name: (content, [synsets().index(synset)])
    for synset, files in imagenet_tars.train_images().items()
    for name, content in files.items()
}
VALIDATION = {
    name: (content, [label])
    for (name, content), label in zip(
        imagenet_tars.validation_images().items(), imagenet_tars.VALIDATION_LABELS, strict=True
    )
}


def test_imagenet_from_its_tars(tmp_path, tars):
    assert run(f"tars:{tars}", "--output", tmp_path, "--format", "array_record") == 0
    for part, expected in (("train", TRAIN), ("validation", VALIDATION)):
        images = sources.load(f"tfds:{tmp_path}", part)
        assert images.class_names == english()
        assert examples(images) == expected


def test_imagenet_by_the_builder_of_tfds(tmp_path, tars, capsys):
    command = ["tfds:imagenet2012", "--data-dir", tmp_path, "--format", "array_record"]
    assert run(*command) == 2
    assert "needs --tars DIR" in capsys.readouterr().err
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / TRAIN_TAR).symlink_to(tars / TRAIN_TAR)
    assert run(*command, "--tars", tmp_path / "one") == 2
    assert "one must have ILSVRC2012_img_val.tar." in capsys.readouterr().err
    assert run(*command, "--tars", tars) == 0
    for part, expected in (("train", TRAIN), ("validation", VALIDATION)):
        images = sources.load("tfds:imagenet2012", part, data_dir=str(tmp_path))
        assert isinstance(images, sources.RandomAccess) and examples(images) == expected
    assert run(*command, "--tars", tars) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert run(*command[:3], "--tars", tars) == 2
    assert "there already, as array_record" in capsys.readouterr().err


@pytest.mark.parametrize("together", [False, True])
def test_other_releases_as_tars_of_classes(tmp_path, together):
    """As ImageNet-22k: single tars, or all of them in one."""
    some = {
        "n00004475": {"n00004475_1.JPEG": imagenet_tars.photo(1)},
        **imagenet_tars.train_images(),
    }
    files = {f"{synset}.tar": imagenet_tars.tar(images) for synset, images in some.items()}
    tars = write_files(
        tmp_path / "tars", {"whole.tar": imagenet_tars.tar(files)} if together else files
    )
    output = tmp_path / "records"
    assert run(f"tars:{tars}", "--output", output) == 0
    images = sources.load(f"tfds:{output}", "train")
    assert images.class_names == tuple(some)
    assert examples(images) == {
        name: (content, [label])
        for label, of_class in enumerate(some.values())
        for name, content in of_class.items()
    }


def tar_of(name: str = "n01440764_1.JPEG", content: bytes = b"x" * 2000) -> bytes:
    return imagenet_tars.tar({name: content})


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "must have ILSVRC2012_img_train.tar or"),
        ({"n01440764.tar": tar_of()[:1024]}, "uncompressed tar"),
        ({"n01440764.tar": b"\x1f\x8b" + b"x" * 5000}, "uncompressed tar"),
        ({"a.tar": imagenet_tars.tar({"n01440764.tar": tar_of()[:2048]})}, "is cut off"),
        ({"a.tar": tar_of("cat.JPEG")}, "only tars of classes .* It has cat.JPEG"),
        ({"n01440764.tar": tar_of(), "n01440765.tar": tar_of()}, "n01440764_1.JPEG more than once"),
        (
            {TRAIN_TAR: imagenet_tars.tar({"n00004475.tar": tar_of()})},
            "class that ImageNet-1k has not: n00004475",
        ),
        ({TRAIN_TAR: imagenet_tars.tar({})}, "has no images"),
        ({VALIDATION_TAR: tar_of("cat.JPEG")}, "must have ILSVRC2012_val_00000001.JPEG"),
    ],
)
def test_tars_that_will_not_do(tmp_path, capsys, files, message):
    tars = write_files(tmp_path / "tars", files)
    tars.mkdir(exist_ok=True)
    assert run(f"tars:{tars}", "--output", tmp_path / "records") == 2
    error = capsys.readouterr().err
    assert error.startswith("training.prepare: error: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images"], "tfds:NAME, folder:PATH or tars:PATH"),
        (["folder:"], "tfds:NAME, folder:PATH or tars:PATH"),
        (["folder:images"], "needs --output"),
        (["folder:images", "--output", "gs://bucket/x"], "folder of this machine"),
        (["folder:images", "--output", "x", "--tars", "y"], "has no --tars"),
        (["tfds:cifar10", "--output", "x"], "tfds: has no --output"),
        (["tars:x", "--output", "x", "--shard-size", "0"], "at least 1"),
    ],
)
def test_command_lines_that_make_no_sense_need_no_tensorflow(arguments, message):
    program = "import sys; from training import prepare; status = prepare.main(sys.argv[1:]); "
    program += "sys.exit(9 if 'tensorflow' in sys.modules else status)"
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2, process.stderr
    assert message in process.stderr and process.stderr.count("\n") == 1
