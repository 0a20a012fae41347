"""Evaluation: what counts, what is right, and beside what it is put."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from evaluation_cases import (
    NUMBERS,
    SIZE,
    STAGES,
    SYNSETS,
    answers,
    check,
    cvt,
    expected,
    listed,
    run,
    write_images,
)
from PIL import Image

import keras_cvt
from keras_cvt import imagenet, weights
from training import evaluate
from training.config import DataConfig
from training.configs.digits import CONFIG
from training.data import sources
from training.evaluation.paper import paper_figure
from training.evaluation.settings import Settings
from training.evaluation.subjects import PublishedModel


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{classes: path of a saved model}."""
    folder = tmp_path_factory.mktemp("models")
    paths = {classes: folder / f"of_{classes}.keras" for classes in (12, 1000)}
    # One knows its classes; the other does as models do that were saved before they could.
    keras_cvt.with_class_names(cvt(12), NUMBERS).save(paths[12])
    cvt(1000).save(paths[1000])
    return paths


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """As ImageNet-V2 has them: folders named by numbers, without parts; 26 images in 12 classes."""
    folder = write_images(tmp_path_factory.mktemp("numbered"), map(str, range(12)))
    for number in (2, 3):
        file = folder / "10" / f"{number}.jpg"
        file.write_bytes((folder / "3" / f"{number - 2}.jpg").read_bytes())
    return folder


def test_numbers_are_those_of_predict(models, numbered, tmp_path, capsys):
    files, labels = listed(numbered)
    figures = expected(answers(models[12], files), labels)
    # Else the test would not see which order the folders are in.
    assert 0 < figures["top1"] < figures["top5"] < 1
    output = tmp_path / "report.json"
    output.write_text("of an earlier evaluation")
    # Of the four batches the last is not full.
    report = run(
        *("--model", models[12], "--data", f"folder:{numbered}", "--crop", "none"), output=output
    )
    check(report, figures)
    assert report["images"] == 26
    assert report["images_without_labels"] == 0 and report["damaged_images"] == []
    assert report["weights_sha256"] == hashlib.sha256(models[12].read_bytes()).hexdigest()
    assert (report["image_size"], report["crop"], report["split"]) == (SIZE, None, "train")
    assert report["images_per_second"] > 0 and report["paper_top1"] is None
    assert report["keras"] == keras.version() and report["precision"] == "float32"
    assert os.listdir(tmp_path) == ["report.json"]
    printed = capsys.readouterr()
    assert f"top-1 {figures['top1']:.2%}, top-5 {figures['top5']:.2%}" in printed.out
    assert "26 images count" in printed.out
    assert printed.err == ""  # no bar where nobody is looking


def test_the_model_in_the_file_is_evaluated_not_one_like_it(numbered, tmp_path):
    """Its layers have the names of a classifier that reads the class token; but it reads the mean."""
    features = keras_cvt.CvT(
        STAGES, weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3)
    )
    keras.utils.set_random_seed(3)
    head = keras.layers.Dense(
        12, kernel_initializer=keras.initializers.RandomNormal(0, 1), name="head"
    )
    end = keras.layers.Activation("softmax", name="probabilities")
    model = keras.Model(features.input, end(head(features.output)))
    path = tmp_path / "mean.keras"
    model.save(path)
    files, labels = listed(numbered)
    (tmp_path / "labels.txt").write_text("\n".join(NUMBERS))
    arguments = ["--model", path, "--data", f"folder:{numbered}", "--crop", "none"]
    arguments += ["--labels", tmp_path / "labels.txt"]
    report = run(*arguments, output=tmp_path / "report.json")
    check(report, expected(answers(path, files), labels))


def test_a_models_own_normalization_and_head_are_part_of_it(numbered, tmp_path):
    """As transfer learning is done: a backbone as a layer, with layers before and behind it."""
    backbone = keras_cvt.CvT(
        STAGES, weights=None, include_top=False, pooling="token", input_shape=(SIZE, SIZE, 3)
    )
    keras.utils.set_random_seed(4)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(keras.layers.RandomFlip()(inputs))
    x = keras.layers.Dropout(0.5)(backbone(x))
    random = keras.initializers.RandomNormal(0, 1)
    outputs = keras.layers.Dense(12, "softmax", kernel_initializer=random, name="breeds")(x)
    path = tmp_path / "own.keras"
    keras.Model(inputs, keras_cvt.ClassNames(NUMBERS)(outputs)).save(path)
    files, labels = listed(numbered)
    arguments = ["--model", path, "--data", f"folder:{numbered}", "--crop", "none"]
    report = run(*arguments, output=tmp_path / "report.json")
    pixels = answers(path, files, prepare=lambda pixels: pixels.astype("float32"))
    check(report, expected(pixels, labels))


def test_a_file_keeps_its_precision_unless_another_is_asked_for(numbered, tmp_path):
    path = tmp_path / "coarse.keras"
    keras_cvt.with_class_names(cvt(12, dtype="mixed_bfloat16"), NUMBERS).save(path)
    arguments = ["--model", str(path), "--data", f"folder:{numbered}", "--crop", "none"]
    output = tmp_path / "report.json"
    for more, policy in (([], "mixed_bfloat16"), (["--precision", "float32"], "float32")):
        assert evaluate.main([*arguments, "--output", str(output), *more]) == 0
        assert json.loads(output.read_text())["precision"] == policy


def test_two_devices_count_as_one(models, numbered, tmp_path):
    files, labels = listed(numbered)
    program = (
        "import sys, tensorflow as tf\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "cpu = tf.config.list_physical_devices('CPU')[0]\n"
        "tf.config.set_visible_devices([], 'GPU')\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "from training import evaluate\n"
        "sys.exit(evaluate.main(sys.argv[1:]))"
    )
    output = tmp_path / "report.json"
    command = [sys.executable, "-c", program, "--model", models[12], "--data", f"folder:{numbered}"]
    command += ["--crop", "none", "--batch-size", "8", "--precision", "float32"]
    command += ["--strategy", "mirrored", "--output", output]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    check(report, expected(answers(models[12], files), labels))
    assert report["images"] == 26
    assert report["strategy"].startswith("MirroredStrategy on 2 devices")


def test_some_of_imagenets_synsets_and_damaged_images(models, tmp_path, capsys, caplog):
    # At 32 pixels the official crop is of 36.
    folder = write_images(tmp_path / "data" / "val", SYNSETS, each=3, size=36)
    files, labels = listed(folder)
    known = [[imagenet.synsets().index(SYNSETS[label])] for (label,) in labels]
    bad = folder / SYNSETS[2] / "1.jpg"
    bad.write_bytes(bad.read_bytes()[:100])
    place = files.index(bad)
    del files[place], known[place]
    data = ["--model", models[1000], "--data", f"folder:{folder.parent}", "--crop", "official"]
    report = run(*data, output=tmp_path / "report.json")
    check(report, expected(answers(models[1000], files, cut=2), known))
    assert report["images"] == 11 and report["images_without_labels"] == 0
    assert report["damaged_images"] == [str(bad)]
    assert (report["crop"], report["split"]) == (0.875, "validation")
    assert str(bad) in caplog.text

    capsys.readouterr()
    assert evaluate.main([*map(str, data), "--max-damaged", "0"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "training.evaluate: error: 1 images can't be read; `max_damaged` is 0: "
    )
    assert error.count("\n") == 1


def test_real_labels(models, numbered, tmp_path, monkeypatch):
    files, _ = listed(numbered)
    probabilities = answers(models[12], files)
    best = np.argsort(-probabilities, axis=1)
    labels = [[label] for label in best[:, 7]]  # wrong for both top-1 and top-5
    labels[0] = [best[0, 9], best[0, 0], best[0, 8]]  # one of several is right
    labels[1] = [best[1, 11], best[1, 4]]  # right in top-5 only
    labels[2] = labels[5] = []  # the best answer to them would be right for any label
    rows = tf.ragged.constant(labels, tf.int64)
    names = tf.constant([str(file) for file in files])

    def at(index):
        return {
            "image": tf.io.read_file(names[index]),
            "labels": rows[index],
            "name": names[index],
        }

    def stream(key, worker, workers):
        return tf.data.Dataset.range(len(files)).shard(workers, worker).map(at)

    images = sources.Stream(count=len(files), class_names=(*NUMBERS,), stream=stream)
    monkeypatch.setattr(sources, "load", lambda *_: images)
    arguments = ["--model", models[12], "--data", "tfds:imagenet2012_real", "--crop", "none"]
    report = run(*arguments, output=tmp_path / "report.json")
    counts = [bool(right) for right in labels]
    figures = expected(probabilities[counts], [right for right in labels if right])
    assert (figures["top1"], figures["top5"]) == (1 / 24, 2 / 24)
    check(report, figures)
    assert (report["images"], report["images_without_labels"]) == (24, 2)


def test_images_without_any_label_are_no_result(models, numbered, tmp_path, monkeypatch, capsys):
    files, _ = listed(numbered)
    images = sources.RandomAccess(
        count=3,
        class_names=(*NUMBERS,),
        at=lambda index: {
            "image": tf.io.read_file(str(files[0])),
            "labels": tf.zeros([0], tf.int64),
            "name": tf.constant("an image"),
        },
    )
    monkeypatch.setattr(sources, "load", lambda *_: images)
    output = tmp_path / "report.json"
    arguments = ["--model", str(models[12]), "--data", "tfds:x", "--output", str(output)]
    assert evaluate.main(arguments) == 2
    assert "None of the 3 images of tfds:x has a label" in capsys.readouterr().err
    assert not output.exists()


def test_folder_of_a_run_has_its_own_images(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    config = CONFIG.replace(validation_split="validation[:20%]")
    (run_dir / "config.json").write_text(json.dumps(config.to_dict()))
    figures = "top1 top5 loss correct images epochs seconds images_per_second"
    (run_dir / "report.json").write_text(json.dumps(dict.fromkeys(figures.split(), 0.5)))
    model = cvt(10, channels=1, classifier_activation=None)  # logits are understood, too
    model.save(run_dir / "model.keras")
    report = run("--model", run_dir, output=tmp_path / "report.json")
    assert (report["data"], report["split"]) == ("digits", "validation[:20%]")
    assert (report["images"], report["crop"], report["image_size"]) == (72, None, 32)

    images = sources.load("digits", "validation", "validation[:20%]")
    pixels, labels = [], []
    for index in range(images.count):
        example = images.at(tf.constant(index, tf.int64))
        digit = Image.fromarray(example["image"].numpy()[..., 0])
        pixels.append(np.array(digit.resize((32, 32), Image.Resampling.BILINEAR))[..., np.newaxis])
        labels.append(list(example["labels"].numpy()))
    pixels = (np.stack(pixels) / 255 - 0.5) / 0.5
    logits = model.predict(pixels, verbose=0)
    check(report, expected(keras.ops.convert_to_numpy(keras.ops.softmax(logits)), labels))


def test_published_weights_stand_beside_the_paper(models, tmp_path, monkeypatch, capsys):
    """The published CvT-13 is 1,000 times as large as this one in its place."""
    import huggingface_hub

    from keras_cvt.architecture import VARIANTS

    asked = []
    file = tmp_path / "snapshots" / weights.PUBLISHED[0].revision / "model.keras"  # as in the cache
    file.parent.mkdir(parents=True)
    file.write_bytes(models[1000].read_bytes())

    def download(repo, name, revision, **_):
        asked.append((repo, revision))
        return str(file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setitem(VARIANTS, "CvT13", tuple(STAGES))
    folder = write_images(tmp_path / "data", SYNSETS[:1], each=1)
    arguments = ["--model", "cvt13", "--data", f"folder:{folder}", "--batch-size", "1"]
    row = weights.PUBLISHED[0]
    report = run(*arguments, output=tmp_path / "r.json")
    assert asked == [(row.repo, row.revision)]
    assert report["weights"] == "imagenet"
    assert report["weights_revision"] == f"{row.repo}@{row.revision}"
    assert (report["image_size"], report["crop"]) == (224, 0.875)

    assert report["paper_top1"] is None and "paper" not in capsys.readouterr().out
    report["paper_top1"] = 0.816
    assert "(the paper: 81.6%)" in evaluate.summary(report)


def never(index):
    raise AssertionError("no image is read")


@pytest.mark.parametrize(
    ("source", "split", "count", "figure"),
    [
        ("tfds:imagenet2012", "validation", 50_000, 0.816),
        ("tfds:imagenet2012:5.1.0", "validation", 50_000, 0.816),
        ("tfds:imagenet2012_real", "validation", 50_000, 0.867),
        ("tfds:imagenet_v2", "test", 10_000, 0.704),
        ("tfds:imagenet_v2/matched-frequency", "test", 10_000, 0.704),
        ("folder:imagenet", "validation", 50_000, 0.816),
        ("folder:imagenet/val", "train", 50_000, 0.816),
        ("tfds:imagenet_v2/topimages", "test", 10_000, None),
        ("tfds:imagenet2012", "validation[:50%]", 25_000, None),
        ("tfds:imagenet2012", "train", 1_281_167, None),
        ("folder:imagenet", "train[:50000]", 50_000, None),
        ("folder:imagenet", "validation", 49_999, None),
    ],
)
def test_figure_of_the_paper(source, split, count, figure):
    images = sources.RandomAccess(count, imagenet.labels(), imagenet.synsets(), split, at=never)
    subject = PublishedModel("CvT13", weights.PUBLISHED[0], 1000, 224)
    data = DataConfig(source, image_size=224, evaluation_crop=0.875)
    assert paper_figure(subject, data, images) == figure
    for other in (
        dataclasses.replace(data, image_size=256),
        dataclasses.replace(data, evaluation_crop=None),
    ):
        assert paper_figure(subject, other, images) is None
    own = dataclasses.replace(subject, weights="own.pth")
    assert paper_figure(own, data, images) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "nothing.keras"}, "'nothing.keras'. There is no such file."),
        ({"--model": "cvt14"}, "--model must be cvt13, cvt21, cvtw24, a .keras file or"),
        ({"--model": "{data}"}, "has no finished run"),
        ({"--model": "{broken}"}, "broken.keras"),
        ({"--weights": "imagenet"}, "--weights is for cvt13, cvt21, cvtw24"),
        ({"--model": "cvt13", "--weights": "imagenet-385"}, "imagenet-384"),
        ({"--model": "cvt13", "--weights": "none.pth"}, "none.pth"),
        ({"--model": "cvt13", "--weights": "{model}"}, "The model is a CvT13"),
        ({"--data": None}, "--data must be given"),
        ({"--data": "folders:x"}, "Did you mean 'folder'?"),
        ({"--data": "folder:nowhere"}, "nowhere can't be read"),
        ({"--data": "digits"}, "takes images of 3 channels. Received 1"),
        ({"--labels": "none.txt"}, "none.txt"),
        (
            {"--model": "{large}"},
            "1000 outputs, but folder:{data} has 12 classes. Some of ImageNet's",
        ),
        ({"--split": "test"}, "The split 'test' of folder:{data}"),
        ({"--image-size": "0"}, "`image_size` must be from 1 to 65535"),
        ({"--image-size": "3"}, "Images of 3x3 are too small"),
        ({"--crop": "1.5"}, "must be official, none, or from 0.01 to 1. Received '1.5'"),
        ({"--crop": "half"}, "Received 'half'"),
        ({"--batch-size": "0"}, "`batch_size` must be at least 1"),
        ({"--max-damaged": "-1"}, "`max_damaged` must be at least 0"),
        ({"--strategy": "tpu"}, "--strategy: invalid choice: 'tpu'"),
        ({"--output": "nowhere/report.json"}, "/nowhere to write report.json in"),
        ({"--output": "{data}"}, "is a folder"),
    ],
)
def test_wrong_use(change, message, models, numbered, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.keras"
    broken.write_bytes(models[12].read_bytes()[:1000])
    names = {"data": numbered, "model": models[12], "large": models[1000], "broken": broken}
    options = {"--model": "{model}", "--data": "folder:{data}", **change}
    arguments = [
        part.format(**names)
        for key, value in options.items()
        if value is not None
        for part in (key, value)
    ]
    before = sorted(os.listdir(tmp_path))
    assert evaluate.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("training.evaluate: error: ")
    assert message.format(**names) in error
    assert error.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_a_published_name_that_is_a_folder_too_is_asked_about(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cvt13").mkdir()
    assert evaluate.main(["--model", "cvt13"]) == 2
    said = capsys.readouterr().err
    assert "--model cvt13 is a published model, and a folder here: add --weights imagenet" in said
    assert "say ./cvt13" in said and said.count("\n") == 1
    assert evaluate.main(["--model", "cvt13", "--weights", "imagenet"]) == 2
    assert "--data must be given" in capsys.readouterr().err
    assert evaluate.main(["--model", "./cvt13"]) == 2
    assert "cvt13 has no finished run" in capsys.readouterr().err
    # Also for those who call it from Python.
    assert Settings("cvt13", source="digits").run_folder is None
    assert Settings("./cvt13").run_folder == Path("cvt13")


@pytest.mark.parametrize(
    ("what", "status", "told"),
    [
        ("OOM when allocating tensor", 2, "too small for --batch-size 64"),
        ("a.jpg; Too many open files", 1, "error: a.jpg; Too many open files"),
    ],
)
def test_too_little_memory_is_told(models, numbered, monkeypatch, capsys, what, status, told):
    from training.engine.step import Trainer

    def out_of_memory(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, what)

    monkeypatch.setattr(Trainer, "evaluate", out_of_memory)
    assert evaluate.main(["--model", str(models[12]), "--data", f"folder:{numbered}"]) == status
    assert told in capsys.readouterr().err


def test_training_images_alone_are_used_only_if_asked_for(models, tmp_path, capsys):
    folder = write_images(tmp_path / "train", SYNSETS, each=1).parent
    arguments = ["--model", str(models[1000]), "--data", f"folder:{folder}"]
    assert evaluate.main(arguments) == 2
    assert (
        "has no evaluation images but train. Say which to take, such as `--split train[90%:]`"
        in (capsys.readouterr().err)
    )
    report = run(*arguments, "--split", "train", output=tmp_path / "report.json")
    assert (report["split"], report["images"]) == ("train", 4)
