"""Files that are complete or not there at all."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from keras_cvt import _files
from keras_cvt._files import replacing, write_text

# The package's modules without the package, which takes seconds to import.
ALONE = """
import sys
from pathlib import Path
sys.modules["keras_cvt"] = type(sys)("keras_cvt")
sys.modules["keras_cvt"].__path__ = ["keras_cvt"]
"""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]
    write_text(path, "new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["report.json"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_is_replaced_whole(tmp_path, kind):
    path = tmp_path / "saved_model"
    if kind == "folder":
        path.mkdir()
        (path / "old").write_text("old")
    else:
        path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert path.is_file() or names(path) == ["old"]
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
    assert names(path) == ["new"]
    assert names(tmp_path) == ["saved_model"]


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "saved_model"
    path.mkdir()
    (path / "old").write_text("old")

    def fail(*_):
        raise OSError(errno.EIO, "no")

    with pytest.raises(OSError), replacing(path) as temporary:
        temporary.mkdir()
        monkeypatch.setattr(os, "replace", fail)
    assert names(path) == ["old"] and names(tmp_path) == ["saved_model"]


def test_what_lies_beside_moves_first(tmp_path, monkeypatch):
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(b.name), replace(a, b)))
    with replacing(tmp_path / "model.xml", durable=True) as temporary:
        temporary.write_text("xml")
        temporary.with_name("z.bin").write_text("bin")
        temporary.with_name("a.bin").write_text("bin")
    assert sorted(moved[:2]) == ["a.bin", "z.bin"] and moved[2:] == ["model.xml"]
    assert names(tmp_path) == ["a.bin", "model.xml", "z.bin"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("folder", [True, False])
def test_never_over_what_exists(tmp_path, monkeypatch, folder, links):
    def unsupported(*_):
        raise OSError(errno.EPERM, "no hard links")

    if not links:
        monkeypatch.setattr(os, "link", unsupported)
    path = tmp_path / "made"

    def make(target, text):
        if folder:
            target.mkdir()
            target = target / "content"
        target.write_text(text)

    with replacing(path, overwrite=False) as temporary:
        make(temporary, "mine")
    with (
        pytest.raises(FileExistsError, match="made exists and is kept"),
        replacing(path, overwrite=False),
    ):
        pytest.fail("has begun")
    other = tmp_path / "other"
    with (
        pytest.raises(FileExistsError, match="other exists and is kept"),
        replacing(other, overwrite=False) as temporary,
    ):
        make(temporary, "mine")
        make(other, "came meanwhile")
    content = other / "content" if folder else other
    assert content.read_text() == "came meanwhile"
    assert names(tmp_path) == ["made", "other"]


def test_a_companion_that_exists_keeps_all_from_being_moved(tmp_path):
    (tmp_path / "model.bin").write_text("mine")
    with (
        pytest.raises(FileExistsError, match=r"model\.bin exists"),
        replacing(tmp_path / "model.xml", overwrite=False) as temporary,
    ):
        temporary.write_text("xml")
        temporary.with_suffix(".bin").write_text("bin")
    assert names(tmp_path) == ["model.bin"] and (tmp_path / "model.bin").read_text() == "mine"


def test_two_writers_at_once_do_not_touch_each_others_files(tmp_path):
    path = tmp_path / "shard"
    both, first_done = threading.Barrier(2), threading.Event()

    def write(text, last):
        with replacing(path) as temporary:
            temporary.write_text(text[:1])
            both.wait(10)
            assert temporary.read_text() == text[:1]
            if last:
                assert first_done.wait(10)
                assert path.read_text() == "first"
            temporary.write_text(text)

    thread = threading.Thread(target=write, args=("second", True))
    thread.start()
    write("first", False)
    first_done.set()
    thread.join(10)
    assert path.read_text() == "second"
    assert names(tmp_path) == ["shard"]


@pytest.mark.parametrize("locks", [True, False])
def test_what_a_killed_process_left_is_removed(tmp_path, monkeypatch, locks):
    code = """
import os, signal, sys
from keras_cvt._files import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    temporary.with_suffix(".bin").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", ALONE + code, str(tmp_path / "model.xml")])
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".partial-model.xml"]
    if not locks:

        def no_locks(*_):
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr(_files.fcntl, "flock", no_locks)
    write_text(tmp_path / "model.xml", "whole")
    assert names(tmp_path) == ["model.xml"]


def test_a_file_of_an_earlier_version_is_removed(tmp_path):
    (tmp_path / ".partial-report.json").write_text("of a killed process")
    write_text(tmp_path / "report.json", "whole")
    assert names(tmp_path) == ["report.json"]


def test_without_locks_as_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "fcntl", None)
    write_text(tmp_path / "report.json", "whole")
    assert names(tmp_path) == ["report.json"]


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(IsADirectoryError) as caught, replacing(tmp_path / "a.csv") as temporary:
        temporary.mkdir()
        open(temporary, "w")
    assert caught.value.filename == str(tmp_path / "a.csv")
    with (
        pytest.raises(FileNotFoundError, match=r"Nothing was written to .*a\.csv"),
        replacing(tmp_path / "a.csv"),
    ):
        pass
    assert names(tmp_path) == []


def test_errors_of_the_hidden_folder_name_the_file_too(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "gone" / "a.csv", "text")
    assert caught.value.filename == str(tmp_path / "gone" / "a.csv")
    (tmp_path / "b.csv").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_text(tmp_path / "b.csv", "text")
    assert str(caught.value).endswith(f"Is a directory: '{tmp_path / 'b.csv'}'")


def test_a_link_stays_and_leads_to_the_new_file(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "a.csv").symlink_to("shared/a.csv")
    for text in ("first", "second"):  # there is nothing at its end yet, and then there is
        write_text(tmp_path / "a.csv", text)
        assert (tmp_path / "a.csv").is_symlink()
        assert (tmp_path / "shared" / "a.csv").read_text() == text
    assert names(tmp_path) == ["a.csv", "shared"] and names(tmp_path / "shared") == ["a.csv"]


def test_devices_and_pipes_are_written_to_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    _files.check_file(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "text")
    assert os.read(reader, 99) == b"text" and names(tmp_path) == ["pipe"]
    os.close(reader)

    code = "from keras_cvt._files import *; check_file(Path(FILE)); write_text(Path(FILE), 'new')"
    command = [sys.executable, "-c", ALONE + code.replace("FILE", "'/dev/stdout'")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "new"
    with open(tmp_path / "out", "w") as out:  # a regular file is not replaced under its shell
        subprocess.run(command, stdout=out, check=True)
        assert os.fstat(out.fileno()).st_ino == (tmp_path / "out").stat().st_ino
    assert (tmp_path / "out").read_text() == "new"


def test_where_nothing_may_be_written_is_known_before(tmp_path, monkeypatch):
    _files.check_file(tmp_path / "a.csv")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"a.csv can't be written: .* may not be written to"):
        _files.check_file(tmp_path / "a.csv")


def test_what_is_durable_is_flushed_before_it_is_seen(tmp_path, monkeypatch):
    path, flushed = tmp_path / "made", []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(path.exists()), fsync(file)))
    with replacing(path, durable=True) as temporary:
        temporary.mkdir()
        (temporary / "a").write_text("a")
        (temporary / "b").write_text("b")
    assert flushed == [False, False, True]  # the files, and then the folder around them
