"""One picture, one meaning: docs/pictures.md's table of formats and readers, cell by cell."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from picture_files import UPRIGHT, File, files

from keras_cvt.images import graph_decode, load
from training.data import reading
from training.data.records import part
from training.data.sources.source import RandomAccess

FILES = files()
DATA = [file.data for of_row in FILES.values() for file in of_row]


def table() -> dict[str, dict[str, str]]:
    """For each row of the table, the cell of each reader."""
    page = pathlib.Path(__file__).parents[3] / "docs" / "pictures.md"
    lines = [line for line in page.read_text("utf-8").splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


TABLE = table()


def source_of(data: list[bytes]) -> RandomAccess:
    files = tf.constant(data)
    return RandomAccess(
        count=len(data),
        class_names=("a", "b"),
        at=lambda index: {
            "image": files[index],
            "labels": tf.constant([1], tf.int64),
            "name": tf.strings.as_string(index),
        },
    )


def training_reader(box=None, data=DATA, **options):
    """Reads a file's pixels, of those with these data, as training does; None if it is damaged."""
    source = source_of(data)

    @tf.function(input_signature=[tf.TensorSpec((), tf.int64)])
    def read(index):
        return reading.read(source, {"index": index}, box, **options)

    def pixels(file: File):
        found = read(data.index(file.data))
        assert (found["damaged"] != b"") == (tf.reduce_sum(found["targets"]) == 0)
        return None if found["damaged"] != b"" else found["image"].numpy()

    return pixels


def upper_left(height, width):
    """A box of the upright picture, above where a file is cut off."""
    return tf.stack([0, 0, height // 2, width // 3])


@pytest.fixture(scope="module")
def readers():
    """The readers by the names of the table's columns: from a file to its pixels, or None."""
    decode = tf.function(
        lambda data: graph_decode.decode(data), input_signature=[tf.TensorSpec((), tf.string)]
    )

    def loaded(file):
        try:
            return load.decode(file.data)
        except load.ImageError:
            return None

    def served(file):
        try:
            return decode(file.data).numpy()
        except tf.errors.InvalidArgumentError:
            return None

    return {
        "load_image": loaded,
        "training": training_reader(),
        "the crop": training_reader(upper_left),
        "serve_bytes": served,
    }


def test_the_table_has_all_rows():
    assert list(TABLE) == list(FILES)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own reading of it
@pytest.mark.parametrize("row", FILES)
def test_a_row_of_the_table(row, readers):
    cells = TABLE[row]
    for file in FILES[row]:
        for name, read in readers.items():
            cell = cells.get(name, cells["training"])
            pixels = read(file)
            assert (pixels is None) == (cell == "refused"), name
            if pixels is None:
                continue
            expected = file.pixels
            if name == "the crop":
                top, left, height, width = upper_left(*expected.shape[:2]).numpy()
                # libjpeg makes the colors of the last column without those beside the crop.
                expected = expected[top : top + height, left : left + width - 1]
                pixels = pixels[:, :-1]
            difference = np.abs(pixels.astype(int) - expected).max()
            assert difference <= {"exact": 0, "± 1": 1}[cell], name
        damage = part._damage(file.data)
        assert {"kept": damage is None, "refused": bool(damage)}[cells["prepare"]]


def test_of_a_jpeg_that_ends_in_its_header_libjpeg_says_nothing(readers, capfd):
    """It would write several lines to standard error for each, which bury those that name the file."""
    whole = FILES["JPEG: progressive"][0].data
    header = whole[: whole.index(b"\xff\xda")]
    cut_off = [header[:100], header[:-1], header]
    for read in (training_reader(data=cut_off), readers["serve_bytes"]):
        assert [read(File(data, None)) for data in cut_off] == [None] * 3
    assert "JPEG library" not in capfd.readouterr().err


def test_orientation_is_ignored_where_asked():
    ignoring = training_reader(upright=False)
    for row in ("JPEG: EXIF orientation", "PNG: EXIF orientation"):
        for file, turn in zip(FILES[row], np.repeat([*UPRIGHT.values()], 3), strict=False):
            np.testing.assert_array_equal(turn(ignoring(file)), file.pixels)
    webp = FILES["WebP: EXIF orientation"][18]
    np.testing.assert_array_equal(UPRIGHT[7](ignoring(webp)), webp.pixels)


def test_without_pillow_other_formats_are_damaged():
    without = training_reader(pillow=False)
    for row, cells in TABLE.items():
        file = FILES[row][0]
        assert (without(file) is None) == (cells["serve_bytes"] == "refused"), row
