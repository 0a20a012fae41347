"""Labels of images for a model: by the names of its classes."""

from __future__ import annotations

import dataclasses

import pytest
import tensorflow as tf
from evaluation_cases import NUMBERS, answers, check, cvt, expected, listed, run, write_images

import keras_cvt
from keras_cvt import imagenet, weights
from training import evaluate
from training.config import ConfigError
from training.data import sources
from training.evaluation.labels import as_labelled_for
from training.evaluation.subjects import PublishedModel


def never(index):
    raise AssertionError("no image is read")


def test_published_weights_are_for_imagenets_classes_only():
    subject = PublishedModel("CvT13", weights.PUBLISHED[0], 1000, 224, imagenet.synsets())
    own = dataclasses.replace(subject, weights="own.pth", class_names=None)
    numbers = sources.RandomAccess(1, tuple(map(str, range(999, -1, -1))), at=labelled_first)
    for model in (subject, own):
        images = as_labelled_for(model, "folder:v2", numbers)
        assert images.class_ids == imagenet.synsets()
        assert images.at(0)["labels"].numpy().tolist() == [999]
    words = sources.RandomAccess(1, tuple(f"bird {number}" for number in range(1000)), at=never)
    with pytest.raises(
        ConfigError, match="folder:birds has classes that CvT13 does not know: bird 0"
    ):
        as_labelled_for(subject, "folder:birds", words)
    assert as_labelled_for(own, "folder:birds", words) is words


def labelled_first(index):
    return {"labels": tf.constant([0], tf.int64)}


def test_classes_are_matched_by_name_and_unknown_ones_refused(tmp_path, capsys):
    """In another order, and fewer of them; over all outputs of the model."""
    names = ["ant", "bee", "cat", "dog", "emu", "fox", "gnu", "hen", "imp", "jay", "koi", "owl"]
    path = tmp_path / "named.keras"
    keras_cvt.with_class_names(cvt(12), names[::-1]).save(path)
    folder = write_images(tmp_path / "data", ["emu", "bee", "owl"])
    files, _ = listed(folder)
    labels = [[names[::-1].index(file.parent.name)] for file in files]
    data = ["--data", f"folder:{folder}", "--crop", "none"]
    report = run("--model", path, *data, output=tmp_path / "report.json")
    check(report, expected(answers(path, files), labels))
    assert (report["images"], report["classes_matched_by"]) == (6, "name")
    (folder / "bee").rename(folder / "wasp")
    assert evaluate.main([*map(str, ["--model", path, *data])]) == 2
    error = capsys.readouterr().err
    assert "does not know: wasp." in error and "knows 12: owl, koi, jay and 9 more." in error


def test_a_model_without_names_is_taken_by_position_and_says_so(tmp_path, capsys):
    path = tmp_path / "nameless.keras"
    cvt(12).save(path)
    folder = write_images(tmp_path / "data", "abcdefghijkl", each=1)
    files, labels = listed(folder)
    data = ["--data", f"folder:{folder}", "--crop", "none"]
    report = run("--model", path, *data, output=tmp_path / "report.json")
    check(report, expected(answers(path, files), labels))
    assert report["classes_matched_by"] == "position"
    assert "The model has no class names" in capsys.readouterr().out
    # Of numbers the order is not known: they were sorted as such when models had no names.
    for number, name in enumerate("abcdefghijkl"):
        (folder / name).rename(folder / str(number))
    assert evaluate.main([*map(str, ["--model", path, *data])]) == 2
    error = capsys.readouterr().err
    assert "10 before 2" in error and "--labels FILE" in error and error.count("\n") == 1
    (tmp_path / "labels.txt").write_text("\n".join(NUMBERS[:-1]))
    labels = ["--labels", str(tmp_path / "labels.txt")]
    assert evaluate.main([*map(str, ["--model", path, *data]), *labels]) == 2
    assert "each of the 12 classes of" in capsys.readouterr().err
