"""Which files of a folder are pictures (keras_cvt/images/listing.py)."""

import os
import socket

import pytest

from keras_cvt.images import listing
from keras_cvt.images.listing import list_images


def write(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()


def test_pictures_of_all_folders_below_are_found_and_the_rest_is_counted(tmp_path):
    taken = ["b.JPG", "a.jpeg", "a.jfif", "x.tif", "x.TIFF", "y.avif", "z.webp", "é.png"]
    taken += ["2024/a.jpg", "2024/05/c.jpg", "2024-old/b.jpg", "folder.jpg/d.jpg"]
    write(tmp_path, *taken)
    write(tmp_path, "._b.JPG", ".DS_Store", "Thumbs.db", ".ipynb_checkpoints/a.jpg", "2024/.x.jpg")
    write(tmp_path, "c.heic", "2024/d.HEIC", "notes.txt", "README", "__MACOSX/._b.JPG")
    found, left_out = list_images(str(tmp_path))
    # Each folder's files are together, and sorted as names.
    assert found == sorted(taken, key=lambda name: name.split("/"))
    assert str(left_out) == (
        "8 files and 2 folders were left out: 6 hidden, 2 .heic (HEIC pictures can't be decoded; "
        "convert them to JPEG or PNG), 1 .txt, 1 without a suffix"
    )


def test_a_flat_folder_has_the_order_of_its_names(tmp_path):
    names = ["10.jpg", "9.jpg", "a b.png", "a-b.png", "a.png", "B.gif", "z.jpg"]
    write(tmp_path, *names)
    found, left_out = list_images(str(tmp_path))
    assert found == sorted(names) and not left_out


def test_names_that_are_not_utf_8(tmp_path):
    write(tmp_path, b"caf\xe9.jpg", b"caf\xe9.d\xe9j", b"b\xff/line\nbreak.png")
    found, left_out = list_images(str(tmp_path))
    assert [*map(os.fsencode, found)] == [b"b\xff/line\nbreak.png", b"caf\xe9.jpg"]
    assert [*map(listing.shown, found)] == [r"b\xff/line\nbreak.png", r"caf\xe9.jpg"]
    assert str(left_out) == r"1 file was left out: 1 .d\xe9j"


def test_links(tmp_path):
    write(tmp_path, "elsewhere/a.jpg", "elsewhere/more/b.jpg", "root/cat/c.jpg")
    root = tmp_path / "root"
    for name, target in {
        "cat/linked": tmp_path / "elsewhere",
        "cat/a.jpg": tmp_path / "elsewhere/a.jpg",
        "cat/gone.jpg": tmp_path / "gone",
        "cat/itself.jpg": "itself.jpg",
        "cat/up": "..",
        "cat/top": "/",
        "../elsewhere/more/back": root / "cat",
    }.items():
        (root / name).symlink_to(target)
    found, left_out = list_images(str(root))
    assert found == ["cat/a.jpg", "cat/c.jpg", "cat/linked/a.jpg", "cat/linked/more/b.jpg"]
    assert {reason: sorted(names) for reason, names in left_out.names.items()} == {
        listing.BROKEN_LINK: [f"{root}/cat/gone.jpg", f"{root}/cat/itself.jpg"],
        listing.CIRCLE: [f"{root}/cat/{n}" for n in ("linked/more/back", "top", "up")],
    }
    assert str(left_out).startswith(
        "2 files and 3 folders were left out: 3 linked to a folder that "
    )
    assert f"2 behind a broken link ({root}/cat/gone.jpg, {root}/cat/itself.jpg)" in str(left_out)


def test_what_is_no_file_and_what_may_not_be_read(tmp_path, monkeypatch):
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    os.mkfifo(tmp_path / "a/pipe.jpg")  # reading it would never end
    with socket.socket(socket.AF_UNIX) as opened:
        monkeypatch.chdir(tmp_path)
        opened.bind("socket.png")
    scandir = os.scandir

    def forbidden(folder):
        if folder.endswith("/b"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    found, left_out = list_images(str(tmp_path))
    assert found == ["a/1.jpg"]
    assert {reason: sorted(names) for reason, names in left_out.names.items()} == {
        listing.SPECIAL: [f"{tmp_path}/a/pipe.jpg", f"{tmp_path}/socket.png"],
        "not permitted": [f"{tmp_path}/b"],
    }
    assert str(left_out).startswith("2 files and 1 folder were left out: 2 not a regular file (")
    with pytest.raises(PermissionError):
        list_images(str(tmp_path / "b"))
    with pytest.raises(FileNotFoundError):
        list_images(str(tmp_path / "nowhere"))


def test_many_reasons_are_still_one_line(tmp_path):
    write(tmp_path, *(f"a.{number:03}" for number in range(20)))
    assert str(list_images(str(tmp_path))[1]) == (
        "20 files were left out: 1 .000, 1 .001, 1 .002, 1 .003, 1 .004, 1 .005, 14 of other kinds"
    )
