"""The `keras-cvt` command and what stands behind `predict` (keras_cvt/cli, inference)."""

import csv
import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import reference_models
from PIL import Image
from sklearn.datasets import load_sample_images

import keras_cvt
from keras_cvt import architecture
from keras_cvt.cli import main
from keras_cvt.imagenet import load_image, preprocess_input
from keras_cvt.inference.predict import predict_files


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """scikit-learn's two real photos, a text file with the name of an image, and a note."""
    folder = tmp_path_factory.mktemp("photos")
    names = ("china.png", "flower.png")
    for name, photo in zip(names, load_sample_images().images, strict=True):
        keras.utils.save_img(folder / name, photo, scale=False)
    (folder / "broken.jpg").write_text("no image")
    (folder / "note.txt").write_text("not looked at")
    return folder


@pytest.fixture
def photos(written, tmp_path):
    """A copy of them, which a test may change."""
    return Path(shutil.copytree(written, tmp_path / "photos"))


@pytest.fixture
def tiny_as_cvt13(monkeypatch, tmp_path):
    """A small model of 1000 classes in the place of CvT13, and a file of its weights."""
    stages = tuple(reference_models.stages("tiny"))
    monkeypatch.setitem(architecture.VARIANTS, "CvT13", stages)
    model = keras_cvt.CvT(stages)
    model.get_layer("head").kernel.assign(keras.random.normal((64, 1000), stddev=1.0, seed=0))
    model.save_weights(tmp_path / "tiny.weights.h5")
    return model, str(tmp_path / "tiny.weights.h5")


def test_summary(capsys):
    assert main(["summary", "cvt13"]) == 0
    text = capsys.readouterr().out
    for part in ("19,997,480", "4,566,089,216", "4,268,871,680", "stage2_blocks_9", "4.57 G"):
        assert part in text
    assert main(["summary", "CvT-W24", "--image-size", "384x256"]) == 0
    assert "384x256" in capsys.readouterr().out
    assert main(["summary", "cvt133"]) == 2
    assert "Did you mean 'cvt13'?" in capsys.readouterr().err
    assert main(["summary", "cvt13", "--image-size", "1"]) == 2
    assert "at least 3 pixels" in capsys.readouterr().err
    assert main(["summary", "cvt13", "--image-size", "big"]) == 2
    assert "'big' is neither SIZE nor HEIGHTxWIDTH" in capsys.readouterr().err


def test_weights(capsys):
    assert main(["weights"]) == 0
    assert keras_cvt.weights.table() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"drop_rate": [None]}, "`drop_rate` must be at least 0"),
        ({"kernel_qkv": ["3"]}, "`kernel_size` must be an integer of at least 1"),
        ({"padding_kv": [None]}, "`padding` must be an integer of at least 0"),
        ({"qkv_projection_method": ["avg"]}, "`projection` must be one of"),
        ({"num_heads": [3]}, "num_heads=3 does not divide embed_dim=8"),
        ({"embed_dim": [], "depth": [], "num_heads": []}, "at least one stage"),
        ({"model": 3}, "The spec's MODEL must be options by name, not 3"),
    ],
)
def test_summary_of_what_can_not_be_made(changed, message, tmp_path, capsys):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"embed_dim": [8], "depth": [1], "num_heads": [2], **changed}))
    assert main(["summary", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_convert(tmp_path, capsys, tiny_as_cvt13):
    source = str(reference_models.FOLDER / "tiny" / "official.pth")
    spec = str(reference_models.FOLDER / "tiny" / "spec.json")
    target = tmp_path / "a.keras"
    assert main(["convert", source, str(target), "--spec", spec]) == 0
    assert target.is_file()
    assert main(["convert", source, str(tmp_path / "a.onnx")]) == 2
    assert "must end in" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "no.pth"), str(target)]) == 2


def test_predict(photos, tiny_as_cvt13, tmp_path, capsys):
    model, weights = tiny_as_cvt13
    options = ["--model", "cvt13", "--weights", weights]
    # The broken image is reported at the end, and the others are not lost.
    assert main(["predict", str(photos), *options, "--top", "3", "--json"]) == 1
    captured = capsys.readouterr()
    assert "broken.jpg" in captured.err and "1 of 3 images have no answer" in captured.err
    broken, china, flower = json.loads(captured.out)
    assert "broken.jpg" in broken["error"]
    image = load_image(photos / "flower.png")
    scores = model.predict(preprocess_input(image[None]), verbose=0)
    expected = keras_cvt.decode_predictions(scores, top=3)[0]
    assert [(c["id"], c["label"]) for c in flower["classes"]] == [row[:2] for row in expected]
    np.testing.assert_allclose(
        [c["score"] for c in flower["classes"]], [row[2] for row in expected], rtol=1e-4
    )
    assert china["image"].endswith("china.png")

    table = tmp_path / "out.csv"
    files = [str(photos / "china.png"), str(photos / "flower.png")]
    assert main(["predict", *files, *options, "--csv", str(table)]) == 0
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10 and rows[5]["rank"] == "1"
    assert rows[5]["label"] == flower["classes"][0]["label"]

    assert main(["predict", *files, *options]) == 0
    assert flower["classes"][0]["label"] in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_of_files_need_not_be_text(photos, tiny_as_cvt13, tmp_path, capfdbinary):
    name = os.fsdecode(b"caf\xe9.png")
    os.rename(photos / "china.png", photos / name)
    path = tmp_path / "table.csv"
    arguments = ["predict", "--model", "cvt13", "--weights", tiny_as_cvt13[1]]
    assert main([*arguments, "--csv", str(path), str(photos / name)]) == 0
    assert b"caf\xe9.png,1," in path.read_bytes()
    capfdbinary.readouterr()
    assert main([*arguments, str(photos), "--top", "1"]) == 1
    assert os.fsencode(photos / name) in capfdbinary.readouterr().out
    assert main([*arguments, str(photos), "--top", "1", "--json"]) == 1
    found = json.loads(capfdbinary.readouterr().out.decode())
    assert [row["image"] for row in found][1] == str(photos / name)


def test_what_predict_leaves_out_of_a_folder_is_said(photos, tiny_as_cvt13, tmp_path, capsys):
    (photos / "nested").mkdir()
    os.rename(photos / "china.png", photos / "nested/china.png")
    for name in ("._china.png", "Thumbs.db", "a.heic"):
        (photos / name).touch()
    options = ["--model", "cvt13", "--weights", tiny_as_cvt13[1], "--json"]
    assert main(["predict", str(photos), *options]) == 1
    out, err = capsys.readouterr()
    found = [row["image"] for row in json.loads(out)]
    assert found == [str(photos / n) for n in ("broken.jpg", "flower.png", "nested/china.png")]
    assert "keras-cvt predict: 4 files were left out: 2 hidden, 1 .heic (HEIC pictures " in err

    nothing = tmp_path / "nothing"
    (nothing / "deep").mkdir(parents=True)
    (nothing / "deep/.x.jpg").touch()
    assert main(["predict", str(nothing), *options]) == 1
    said = f"keras-cvt predict: {nothing}: no images to read: 1 file was left out: 1 hidden\n"
    assert said in capsys.readouterr().err


def test_a_damaged_model_is_said_in_a_line(photos, tmp_path, capsys):
    path = tmp_path / "small.keras"
    keras_cvt.CvT([keras_cvt.StageConfig(8, 1, 2)], classes=1000).save(path)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert main(["predict", "--model", str(path), str(photos)]) == 2
    assert f"{path} can't be loaded: " in capsys.readouterr().err


def test_wrong_predict(photos, tiny_as_cvt13, tmp_path, capsys):
    _, weights = tiny_as_cvt13
    options = ["--model", "cvt13", "--weights", weights]
    for arguments, message in (
        (["predict", str(photos), *options, "--top", "1001"], "there are 1000 classes"),
        (["predict", str(photos), *options, "--csv", str(tmp_path / "no" / "a.csv")], "no folder"),
        (
            ["predict", str(photos), *options, "--top", "0"],
            "--top: must be an integer, at least 1",
        ),
        (["predict", str(photos), "--model", "cvt31"], "Did you mean"),
        (["predict", str(photos), "--model", "cvt13", "--weights", "imagenet-38"], "imagenet-384"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    for size in ("0", "10x0", "big"):
        assert main(["predict", str(photos), *options, "--image-size", size]) == 2
        error = capsys.readouterr().err
        assert "argument --image-size" in error and error.count("\n") == 1


def test_predict_and_explain_with_a_saved_model(photos, tmp_path, capsys):
    """A `.keras` file, such as fine-tuning leaves: any stages, here for a rectangle and with logits."""
    stages = reference_models.stages("tiny")
    size = {"input_shape": (64, 96, 3)}
    model = keras_cvt.CvT(stages, classes=3, classifier_activation=None, **size)
    model.get_layer("head").kernel.assign(keras.random.normal((64, 3), seed=0))
    model.save(tmp_path / "mine.keras")
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    image = str(photos / "china.png")
    options = ["--model", str(tmp_path / "mine.keras"), "--labels", str(tmp_path / "labels.txt")]
    assert main(["predict", image, *options, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    pixels = load_image(image, (64, 96))
    expected = keras.ops.softmax(model(preprocess_input(pixels[np.newaxis])))[0]
    scores = {answer["label"]: answer["score"] for answer in result["classes"]}
    np.testing.assert_allclose([scores[name] for name in ("cat", "dog", "bird")], expected, 1e-5)
    assert main(["explain", image, *options, "--output", str(tmp_path / "a.png")]) == 0
    capsys.readouterr()

    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]).save(tmp_path / "no.keras")
    keras_cvt.CvT(stages, classes=3, input_shape=(64, 64, 1)).save(tmp_path / "grey.keras")
    frames = keras.Input((2, 64, 96, 3))
    features = keras.layers.GlobalAveragePooling1D()(keras.layers.TimeDistributed(model)(frames))
    video = keras.Model(frames, keras.layers.Dense(3, "softmax")(features))
    video.save(tmp_path / "video.keras")
    for more, message in (
        (["--weights", "imagenet"], "has its own weights: leave out --weights"),
        (["--image-size", "64"], "takes images of 64x96 pixels, not 64x64"),
        (["--model", str(tmp_path / "grey.keras")], "takes images of 1 channels"),
        (["--model", str(tmp_path / "no.keras")], "made by keras_cvt"),
        (["--model", str(tmp_path / "video.keras")], "Its input is (None, 2, 64, 96, 3)"),
        (["--model", str(tmp_path / "none.keras")], "none.keras"),
    ):
        assert main(["predict", image, *options, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["predict", image, *options[:2]]) == 2
    assert "mine.keras has no class names, and its output is (None, 3)" in capsys.readouterr().err

    # With names of its own, which --labels goes before.
    keras_cvt.with_class_names(model, ["Katze", "Hund", "Vogel"]).save(tmp_path / "named.keras")
    for more, names in (([], {"Katze", "Hund", "Vogel"}), (options[2:], {"cat", "dog", "bird"})):
        assert main(["predict", image, "--model", str(tmp_path / "named.keras"), *more]) == 0
        said = capsys.readouterr().out
        assert {line.split()[1] for line in said.splitlines()[1:]} == names
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    assert main(["predict", image, *options]) == 2
    assert "must name each class of" in capsys.readouterr().err

    model.get_layer("head").bias.assign([np.nan] * 3)
    keras_cvt.with_class_names(model, ["cat", "dog", "bird"]).save(tmp_path / "diverged.keras")
    assert main(["predict", image, "--model", str(tmp_path / "diverged.keras")]) == 1
    captured = capsys.readouterr()
    assert "china.png: the model's answers are not finite, such as nan" in captured.err
    assert captured.out == ""


def test_explain(photos, tiny_as_cvt13, tmp_path, capsys):
    _, weights = tiny_as_cvt13
    options = ["--model", "cvt13", "--weights", weights]
    output = tmp_path / "flower.png"
    command = ["explain", str(photos / "flower.png"), *options, "--output"]
    assert main([*command, str(output)]) == 0
    said = capsys.readouterr().out
    assert main(["predict", str(photos / "flower.png"), *options]) == 0
    assert said == capsys.readouterr().out + f"wrote {output}\n"
    with Image.open(output) as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
    assert not list(tmp_path.glob(".*"))

    before = output.read_bytes()
    for wrong, message in (
        ([*command, str(output)], "flower.png exists and is kept"),
        ([*command, str(tmp_path / "a.txt")], "must end in .png or .jpg"),
        ([*command, str(tmp_path / "no" / "a.png")], "no folder"),
        ([*command, "a.png", "--top", "0"], "--top: must be an integer, at least 1"),
        (["explain", "none.jpg", *options, "--output", "a.png"], "none.jpg"),
        (["explain", str(photos / "broken.jpg"), *options, "--output", "a.png"], "not an image"),
    ):
        assert main(wrong) == 2
        error = capsys.readouterr().err
        assert (
            message in error and error.startswith("keras-cvt explain: ") and error.count("\n") == 1
        )
    assert output.read_bytes() == before and not Path("a.png").exists()


def test_explain_without_matplotlib(photos, tiny_as_cvt13, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    command = ["explain", str(photos / "flower.png"), "--model", "cvt13", "--weights", "none.keras"]
    assert main([*command, "--output", str(tmp_path / "a.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_what_is_not_there_does_not_stop_the_others(photos, tiny_as_cvt13, tmp_path, capsys):
    _, weights = tiny_as_cvt13
    empty = tmp_path / "empty"
    empty.mkdir()
    sources = [str(tmp_path / "none.jpg"), str(empty), str(photos / "china.png")]
    assert main(["predict", *sources, "--model", "cvt13", "--weights", weights, "--json"]) == 1
    captured = capsys.readouterr()
    none, folder, china = json.loads(captured.out)
    assert "error" in none and "error" in folder and "classes" in china
    assert "2 of 3 images have no answer" in captured.err


def test_a_new_classifier_predicts_nothing(photos, tmp_path, capsys, monkeypatch):
    stages = tuple(reference_models.stages("tiny"))
    monkeypatch.setitem(architecture.VARIANTS, "CvT13", stages)
    keras_cvt.CvT(stages, classes=3).save(tmp_path / "mine.keras")
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    arguments = ["predict", str(photos / "china.png"), "--model", "cvt13"]
    arguments += ["--weights", str(tmp_path / "mine.keras")]
    for more, message in (
        ([], "3 classes, but there are 1000 labels"),
        (["--labels", str(tmp_path / "labels.txt"), "--top", "2"], "3 classes.*2 labels"),
    ):
        assert main([*arguments, *more]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_own_labels(photos, tmp_path, capsys, monkeypatch):
    stages = tuple(reference_models.stages("tiny"))
    monkeypatch.setitem(architecture.VARIANTS, "CvT13", stages)
    keras_cvt.CvT(stages, classes=3).save_weights(tmp_path / "mine.weights.h5")
    (tmp_path / "labels.txt").write_text("cat\ndog\nbird\n")
    arguments = ["predict", str(photos / "china.png"), "--model", "cvt13", "--json"]
    arguments += ["--weights", str(tmp_path / "mine.weights.h5")]
    assert main([*arguments, "--labels", str(tmp_path / "labels.txt"), "--top", "3"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert {c["label"] for c in result["classes"]} == {"cat", "dog", "bird"}

    # A .keras file names its classes, which need not be ImageNet's if they are 1000.
    for count in (3, 1000):
        names = [f"class {number}" for number in range(count)]
        model = keras_cvt.with_class_names(keras_cvt.CvT(stages, classes=count), names)
        model.save(tmp_path / "mine.keras")
        assert main([*arguments[:-1], str(tmp_path / "mine.keras")]) == 0
        (result,) = json.loads(capsys.readouterr().out)
        assert {c["label"] for c in result["classes"]} <= {*names}


def test_batches_do_not_change_the_answers(photos, tiny_as_cvt13):
    model, _ = tiny_as_cvt13
    files = [str(photos / name) for name in ("china.png", "broken.jpg", "flower.png")] * 2
    one, four = (list(predict_files(model, files, batch_size=size, top=2)) for size in (1, 4))
    assert [p.source for p in four] == files
    for single, batched in zip(one, four, strict=True):
        assert (single.error is None) == (batched.error is None)
        if single.classes:
            assert [c[:2] for c in single.classes] == [c[:2] for c in batched.classes]
    with pytest.raises(ValueError, match="1000 outputs, but there are 2 labels"):
        next(predict_files(model, files, labels=[("0", "a"), ("1", "b")]))


def test_labelled_photos_from_file_to_name(tiny_as_cvt13, capsys):
    """foolbox's twenty photos, whose labels stand in their names, through the whole way. What a model
    with random weights says of them means nothing; that it is asked of each one does."""
    folder = (
        Path(next(iter(importlib.util.find_spec("foolbox").submodule_search_locations))) / "data"
    )
    photos = sorted(folder.glob("imagenet_*.jpg"))
    assert len(photos) == 20
    _, weights = tiny_as_cvt13
    arguments = ["--model", "cvt13", "--weights", weights, "--json", "--top", "1"]
    assert main(["predict", *map(str, photos), *arguments]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["image"] for result in results] == [str(photo) for photo in photos]
    model, _ = tiny_as_cvt13
    batch = preprocess_input(np.stack([load_image(photo) for photo in photos]))
    expected = keras_cvt.decode_predictions(model.predict(batch, verbose=0), top=1)
    answers = [(r["classes"][0]["id"], r["classes"][0]["label"]) for r in results]
    assert answers == [row[0][:2] for row in expected]
    labels = keras_cvt.imagenet.labels()
    # What is to be seen on some of them, by looking.
    named = {int(photo.stem.split("_")[2]) for photo in photos}
    seen = {22: "bald eagle", 251: "dalmatian", 949: "strawberry", 609: "jeep"}
    assert named >= set(seen) and {i: labels[i] for i in seen} == seen
