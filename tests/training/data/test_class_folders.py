"""Class folders as users have them: their names, parts, and links."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_cases import CLASSES, config_for

from training import data
from training.config import ConfigError
from training.data import sources


def write(root: Path, *files: str) -> str:
    """Makes empty files; returns the source that they are."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return f"folder:{root}"


PERSIAN = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # with a joiner, as is usual
SCIENTIST = "\U0001f469\u200d\U0001f52c"  # an emoji of two and a joiner


def test_names_that_are_kept(tmp_path):
    names = ("Ant", "ant", "US$ and A$", "a b", "dot.", PERSIAN, SCIENTIST)
    source = write(tmp_path, *(f"{name}/a.jpg" for name in names))
    assert sources.load(source, "train").class_names == tuple(sorted(names))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        # Lists of names do not keep them: a data set of TFDS would have "ant".
        (["ant /a.jpg"], "/ant : A class name must not begin or end with a space"),
        (["\x1b[31mred/a.jpg"], r"/\\x1b\[31mred: A class name must be one line of text"),
        # What others call parts would be classes.
        (["Train/ant/a.jpg", "Val/ant/a.jpg"], "/Train has the folders ant: is it a part with"),
        (["training/ant/a.jpg", "testing/ant/a.jpg"], "called train and val or valid or"),
        # One name to the eye: macOS stores an accent apart from its letter.
        (
            ["train/caf\u00e9/a.jpg", "val/cafe\u0301/a.jpg"],
            r"Only in one .* 'cafe\\u0301' and 'caf\\xe9' look alike\.",
        ),
    ],
)
def test_names_that_are_refused(tmp_path, files, said):
    with pytest.raises(ConfigError, match=said) as error:
        sources.load(write(tmp_path, *files), "train")
    assert "\n" not in str(error.value)


def test_classes_of_two_sources_that_look_alike(tmp_path):
    source = write(tmp_path / "one", "train/caf\u00e9/a.jpg", "train/tea/a.jpg")
    other = write(tmp_path / "two", "val/cafe\u0301/a.jpg", "val/tea/a.jpg")
    with pytest.raises(ConfigError, match=r"'caf\\xe9' and 'cafe\\u0301' look alike"):
        data.load(config_for(tmp_path, source=source, validation_source=other))


def test_valid_is_a_part_and_goes_before_test(tmp_path):
    source = write(tmp_path, *(f"{part}/ant/{part}.jpg" for part in ("train", "valid", "test")))
    validation = sources.load(source, "validation")
    (example,) = validation.examples().as_numpy_iterator()
    assert example["name"].endswith(b"/valid.jpg")
    assert "1 neither train nor valid (test)" in sources.load(source, "train").left_out


def test_one_class_is_nothing_to_learn(tmp_path):
    source = write(tmp_path, "photos/train/ant/a.jpg", "photos/train/bee/a.jpg")
    splits = {"train_split": "train[:1]", "validation_split": "train[1:]"}
    with pytest.raises(ConfigError, match="at least two classes.* Received 'photos'"):
        data.load(config_for(tmp_path, source=source, **splits))


def test_a_class_folder_that_is_a_link_to_another_class(tmp_path):
    source = write(tmp_path, "ant/a.jpg")
    (tmp_path / "bee").symlink_to("ant")
    with pytest.raises(ConfigError, match="ant and bee in .* are the same one: one is a link"):
        sources.load(source, "train")


def test_validation_classes_that_are_links_to_those_of_training(tmp_path):
    source = write(tmp_path, *(f"train/{c}/{i}.jpg" for c in CLASSES for i in range(3)))
    write(tmp_path, "val/bird/a.jpg", "val/dog/a.jpg")
    (tmp_path / "val" / "cat").symlink_to(tmp_path / "train" / "cat")
    with pytest.raises(ConfigError, match="3 of the 5 validation images.* are links to those of"):
        data.load(config_for(tmp_path, source=source))
