"""Tests of training/data/sources: every source gives its images once, with the right labels."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import imagenet_tars
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

from keras_cvt.imagenet import labels as english
from keras_cvt.imagenet import synsets
from training.config import ConfigError
from training.data import sources
from training.data.classes import with_labels_of
from training.data.sources.record_files import allow_open_files


def examples(images: sources.Source, key=None, worker=0, workers=1) -> list[tuple]:
    """(image, labels, name) of each example, read in a data set."""
    if isinstance(images, sources.RandomAccess):
        data = tf.data.Dataset.range(images.count).map(images.at, num_parallel_calls=4)
    else:
        data = images.stream(None if key is None else tf.constant(key, tf.int64), worker, workers)
    return [
        (e["image"], e["labels"].tolist(), e["name"].decode()) for e in data.as_numpy_iterator()
    ]


def names(images: sources.Source, *args, **kwargs) -> list[str]:
    return [name for _, _, name in examples(images, *args, **kwargs)]


# Digits.


def test_digits_are_all_there_once_with_their_labels_and_ink():
    parts = [sources.load("digits", part) for part in ("train", "validation")]
    assert [images.count for images in parts] == [1437, 360]
    assert [(images.channels, images.mean, images.std) for images in parts] == [
        (1, (0.5,), (0.5,))
    ] * 2
    assert parts[0].class_names == tuple("0123456789")
    digits = load_digits()
    numbers = []
    for images in parts:
        for image, (label,), name in examples(images):
            number = int(name.removeprefix("digits:"))
            assert label == digits.target[number]
            assert image.dtype == np.uint8 and image.shape == (8, 8, 1)
            np.testing.assert_array_equal(np.rint(image[..., 0] / 255 * 16), digits.images[number])
            numbers.append(number)
    assert sorted(numbers) == list(range(1797))


def test_slices_of_digits_are_stratified_and_disjoint():
    halves = [sources.load("digits", "train", f"train[{s}]") for s in (":30%", "30%:")]
    assert sum(images.count for images in halves) == 1437
    assert set(names(halves[0])).isdisjoint(names(halves[1]))
    counts = np.bincount([label for _, (label,), _ in examples(halves[0])])
    whole = np.bincount([label for _, (label,), _ in examples(sources.load("digits", "train"))])
    assert np.abs(counts - 0.3 * whole).max() <= 1
    assert sources.load("digits", "validation", "all").count == 1797


# Folders.


def write_folder(root: str, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        if "://" not in root:
            Path(root, name).parent.mkdir(parents=True, exist_ok=True)
            Path(root, name).write_bytes(content)
            continue
        tf.io.gfile.makedirs(f"{root}/{name}".rpartition("/")[0])
        with tf.io.gfile.GFile(f"{root}/{name}", "wb") as file:
            file.write(content)
    return root


PHOTOS = {
    "train/cat/b.PNG": imagenet_tars.photo(1, "PNG"),
    "train/cat/a.jpg": imagenet_tars.photo(2),
    "train/cat/.hidden.jpg": b"",
    "train/cat/notes.txt": b"",
    "train/.git/x.jpg": b"",
    "train/ant/c d é.jpeg": imagenet_tars.photo(3),
    "train/ant/nested/a.jpg": imagenet_tars.photo(6),
    "val/cat/e.webp": imagenet_tars.photo(4, "WEBP"),
    "val/ant/f.gif": imagenet_tars.photo(5, "GIF"),
    "README.md": b"",
}


@pytest.mark.parametrize("root", ["local", "ram://sources"])
def test_folder_with_parts(tmp_path, root):
    root = write_folder(str(tmp_path) if root == "local" else root, PHOTOS)
    train = sources.load(f"folder:{root}", "train")
    assert train.class_names == ("ant", "cat") and train.count == 4 and train.channels == 3
    expected = [(0, "train/ant/c d é.jpeg"), (0, "train/ant/nested/a.jpg")]
    expected += [(1, "train/cat/a.jpg"), (1, "train/cat/b.PNG")]
    assert train.left_out.startswith(
        f"{root}/train: 3 files and 1 folder were left out: 2 hidden, "
    )
    assert examples(train) == [(PHOTOS[name], [y], f"{root}/{name}") for y, name in expected]
    validation = sources.load(f"folder:{root}", "validation")
    assert [Path(name).name for name in names(validation)] == ["f.gif", "e.webp"]
    both = sources.load(f"folder:{root}", "train", "train+validation")
    assert names(both) == names(train) + names(validation)
    assert [y for _, y, _ in examples(both)] == [[0], [0], [1], [1], [0], [1]]


def test_folder_of_one_level_is_sliced_so_that_every_part_has_every_class(tmp_path):
    sizes = {"ant": 10, "bee": 50, "train": 20}  # a class may have such a name
    root = write_folder(
        str(tmp_path), {f"{c}/{i}.jpg": b"" for c, size in sizes.items() for i in range(size)}
    )
    source = f"folder:{root}"
    parts = [
        sources.load(source, part, f"train[{s}]")
        for part, s in (("train", ":80%"), ("validation", "80%:"))
    ]
    assert [p.count for p in parts] == [64, 16]
    assert sorted(names(parts[0]) + names(parts[1])) == sorted(names(sources.load(source, "train")))
    labels = [[y for _, (y,), _ in examples(p)] for p in parts]
    assert np.abs(np.bincount(labels[1]) - [2, 10, 4]).max() <= 1
    assert sources.load(source, "validation", "all").count == 80
    with pytest.raises(ConfigError, match=r"no validation images but train.*train\[90%:\]"):
        sources.load(source, "validation")


def test_folders_of_imagenet_have_the_official_labels(tmp_path):
    for label, synset in enumerate(synsets()):
        (tmp_path / "synsets" / synset).mkdir(parents=True)
        (tmp_path / "synsets" / synset / f"{label}.JPEG").touch()
        (tmp_path / "v2" / str(label)).mkdir(parents=True)
        (tmp_path / "v2" / str(label) / f"{label}.jpeg").touch()
    for name in ("synsets", "v2"):
        images = sources.load(f"folder:{tmp_path / name}", "validation", "all")
        numbers = map(str, range(1000))
        assert images.class_names == (english() if name == "synsets" else (*sorted(numbers),))
        images = with_labels_of(images, synsets(), "the folder", "a model of ImageNet")
        assert images.class_names == english() and images.class_ids == synsets()
        found = {int(Path(path).stem): y for _, (y,), path in examples(images)}
        assert found == {label: label for label in range(1000)}


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ([], None, "no class folders"),
        (["a.jpg"], None, "no class folders"),
        (["ant/a.jpg", "bee/.x.jpg"], None, r"no images: bee \(1 file was left out: 1 hidden\)"),
        (["train/a/a.jpg", "train/b.jpg", "val/a/a.jpg"], None, "folder a and the image b.jpg"),
        (["train/a/a.jpg", "val/a/a.heic"], None, r"val have no images: a \(.*1 .heic"),
        ([os.fsdecode(b"caf\xe9/a.jpg")], None, r"/caf\\xe9: .* text in UTF-8"),
        (
            ["train/ant/a.jpg", "train/bee/a.jpg", "val/ant/a.jpg", "val/fly/a.jpg"],
            None,
            "bee, fly",
        ),
        (["val/ant/a.jpg"], None, "no train images but validation"),
        (["ant/a.jpg"], "test", "Unknown split 'test'"),
        (["ant/a.jpg"], "train[:x%]", "Unrecognized split format"),
        (["ant/a.jpg"], "train[:0]", "no images"),
    ],
)
def test_folders_that_will_not_do(tmp_path, files, split, message):
    write_folder(str(tmp_path), dict.fromkeys(files, b""))
    with pytest.raises(ConfigError, match=message) as error:
        sources.load(f"folder:{tmp_path}", "train", split)
    assert "\n" not in str(error.value)


def test_nothing_in_class_folders_is_passed_over_silently(tmp_path):
    taken = ["cat/1.jpg", "cat/2024/2.tif", "cat/2024/05/3.jfif", "dog.jpg/4.webp"]
    taken += ["cat/z/5.AVIF", os.fsdecode(b"cat/caf\xe9.png")]
    passed_over = ["cat/6.heic", "cat/.ipynb_checkpoints/1.jpg", "cat/._1.jpg", "dog.jpg/Thumbs.db"]
    write_folder(
        str(tmp_path), {f"train/{name}": name.encode(errors="surrogateescape") for name in taken}
    )
    write_folder(str(tmp_path), {f"train/{name}": b"" for name in passed_over})
    write_folder(str(tmp_path), {"test/cat/1.jpg": b"", "labels.csv": b""})
    write_folder(str(tmp_path), {"extra/1.jpg": b"", "test/dog.jpg/1.jpg": b""})
    train = sources.load(f"folder:{tmp_path}", "train")
    assert train.class_names == ("cat", "dog.jpg")
    expected = sorted(name.split("/") for name in taken)
    data = train.examples().as_numpy_iterator()
    found = [(e["name"], e["image"], e["labels"].tolist()) for e in data]
    names = [os.fsencode("/".join(name)) for name in expected]
    labels = [[0]] * 5 + [[1]]
    prefix = os.fsencode(f"{tmp_path}/train/")
    assert found == [(prefix + n, n, y) for n, y in zip(names, labels, strict=True)]
    said = (
        f"{tmp_path}/train: 4 files and 2 folders were left out: 3 hidden, 1 .csv, 1 .heic (HEIC "
    )
    assert train.left_out.startswith(said)
    assert train.left_out.endswith(", 1 neither train nor test (extra).")
    assert sources.load(f"folder:{tmp_path}", "validation").left_out == ""


def test_what_looks_like_an_image_and_is_left_out_is_named(tmp_path):
    write_folder(str(tmp_path), {"cat/1.jpg": b"", "dog/1.jpg": b"", "loose.jpg": b""})
    (tmp_path / "cat/2.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "all").symlink_to(tmp_path)
    images = sources.load(f"folder:{tmp_path}", "train")
    assert images.count == 2 and images.class_names == ("cat", "dog")
    assert f"1 behind a broken link ({tmp_path}/cat/2.jpg)" in images.left_out
    assert f"1 linked to a folder that it is in ({tmp_path}/all)" in images.left_out
    assert "1 outside the class folders (loose.jpg)" in images.left_out


def test_a_class_may_have_no_validation_images(tmp_path):
    write_folder(
        str(tmp_path), dict.fromkeys(["train/a/1.jpg", "train/b/1.jpg", "val/b/1.jpg"], b"")
    )
    (tmp_path / "val/a").mkdir()
    images = sources.load(f"folder:{tmp_path}", "validation")
    assert [y for _, y, _ in examples(images)] == [[1]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("folder:/no/such/folder", "/no/such/folder can't be read"),
        ("tfd:cifar10", "tfds:NAME, .*'tfd:cifar10'. Did you mean 'tfds'"),
        ("folder", "Received 'folder'. Did you mean folder:PATH\\?"),
        ("folder:", "Did you mean folder:PATH\\?"),
        ("digits:8", "Did you mean digits\\?"),
        ("tars:/my/tars", "training.prepare writes is tfds:/my/tars"),
        (os.path.dirname(__file__), f"Did you mean folder:{os.path.dirname(__file__)}\\?"),
        ("tfds:", "Did you mean tfds:NAME\\?"),
        ("tfds:imagnet2012", "Did you mean 'imagenet2012'"),
        ("tfds:/no/such/folder", "no dataset_info.json"),
        (
            "tfds:imagenet2012",
            "python -m training.prepare tfds:imagenet2012 --data-dir .* --tars DIR",
        ),
        ("tfds:imagenet_v2/nonsense", "nonsense"),
    ],
)
def test_sources_that_are_not_there(tmp_path, source, message):
    with pytest.raises(ConfigError, match=message) as error:
        sources.load(source, "train", data_dir=str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_source_without_network_is_refused_in_a_line(monkeypatch):
    def unreachable(path):
        raise tf.errors.UnavailableError(None, None, f"Could not resolve host\\nof {path}")

    monkeypatch.setattr(tf.io.gfile, "exists", unreachable)
    monkeypatch.setattr(tf.io.gfile, "listdir", unreachable)
    for kind in ("tfds", "folder"):
        with pytest.raises(
            ConfigError, match="gs://bucket/x can't be read: Could not resolve host"
        ):
            sources.load(f"{kind}:gs://bucket/x", "train")


def test_more_open_files_than_may_ever_be(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    allow_open_files(900)
    with pytest.raises(ConfigError, match="must be at least 1064 .* Received 1000"):
        allow_open_files(1000)


# tensorflow_datasets.


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> dict[str, Path]:
    """tfds' folder of ImageNet, prepared by its own builder, in each format."""
    root = tmp_path_factory.mktemp("imagenet")
    tars = imagenet_tars.write(root / "tars")
    for file_format in ("tfrecord", "array_record"):
        tfds.builder("imagenet2012", data_dir=root / file_format).download_and_prepare(
            file_format=file_format,
            download_config=tfds.download.DownloadConfig(manual_dir=tars, num_shards=4),
        )
    return {file_format: root / file_format for file_format in ("tfrecord", "array_record")}


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_imagenet_as_tfds_prepares_it(imagenet, file_format):
    data_dir = str(imagenet[file_format])
    train = sources.load("tfds:imagenet2012", "train", data_dir=data_dir)
    assert isinstance(train, sources.RandomAccess) == (file_format == "array_record")
    assert train.class_names == english() and train.count == 25
    expected = {
        name: (content, [synsets().index(synset)])
        for synset, files in imagenet_tars.train_images().items()
        for name, content in files.items()
    }
    assert {name: (image, y) for image, y, name in examples(train)} == expected

    validation = sources.load("tfds:imagenet2012", "validation", data_dir=data_dir)
    found = {name: (image, y) for image, y, name in examples(validation)}
    assert [found[name][1] for name in sorted(found)] == [
        [y] for y in imagenet_tars.VALIDATION_LABELS
    ]
    assert {name: image for name, (image, _) in found.items()} == imagenet_tars.validation_images()

    parts = [
        sources.load("tfds:imagenet2012", "train", f"train[{s}]", data_dir)
        for s in (":37%", "37%:")
    ]
    assert [p.count for p in parts] == [9, 16]
    assert sorted(names(parts[0]) + names(parts[1])) == sorted(expected)


def test_record_files_tell_which_images_they_have(imagenet, tmp_path):
    def contents(split="train", data_dir=imagenet["array_record"]):
        return sources.load("tfds:imagenet2012", "train", split, str(data_dir)).contents

    shutil.copytree(imagenet["array_record"], tmp_path / "moved")
    assert contents(data_dir=tmp_path / "moved").digest() == contents().digest()
    assert b"imagenet2012/5.1.0 in array_record" in [*contents().lines()]
    others = [contents("train[:50%]"), contents("train[50%:]"), contents("validation")]
    others.append(contents(data_dir=imagenet["tfrecord"]))
    assert len({other.digest() for other in (contents(), *others)}) == 5
    shared = [contents().shared_with(other) for other in others]
    assert shared == [12, 13, 0, 0] and others[0].shared_with(others[1]) == 0


@pytest.mark.parametrize(
    ("split", "key"), [("train", None), ("train", (3, 1)), ("train[3:20]", (3, 1))]
)
def test_workers_share_a_stream(imagenet, split, key):
    images = sources.load("tfds:imagenet2012", "train", split, str(imagenet["tfrecord"]))
    whole = names(images, key)
    assert len(set(whole)) == len(whole) == images.count
    for workers in (2, 3, 26):  # 4 files, 25 images
        of_worker = tf.data.Dataset.range(workers).flat_map(
            lambda worker, workers=workers: images.stream(key, worker, workers).map(
                lambda example: (worker, example["name"])
            )
        )
        numbers, together = zip(*of_worker.as_numpy_iterator(), strict=True)
        assert sorted(name.decode() for name in together) == sorted(whole)
        sizes = np.bincount(numbers, minlength=workers)
        assert max(sizes) - min(sizes) <= 1
        if key is None:
            assert [name.decode() for name in together] == whole


def test_the_key_decides_the_order_of_a_stream(imagenet):
    images = sources.load("tfds:imagenet2012", "train", data_dir=str(imagenet["tfrecord"]))
    first, again, other = (names(images, key) for key in ((3, 1), (3, 1), (3, 2)))
    assert first == again and first != other and sorted(first) == sorted(other)

    # As training does it: epochs, mapped to streams.
    def epoch(number):
        return images.stream(tf.stack([tf.constant(3, tf.int64), number]), 0, 1)

    epochs = tf.data.Dataset.range(1, 3).flat_map(epoch)
    assert [e["name"].decode() for e in epochs.as_numpy_iterator()] == first + other


def test_a_stream_mixes_blocks_of_all_files(imagenet, monkeypatch):
    monkeypatch.setattr(sources.record_files, "MIXED", 8)
    images = sources.load("tfds:imagenet2012", "train", data_dir=str(imagenet["tfrecord"]))
    in_order, mixed = names(images), names(images, (0, 0))
    assert sorted(mixed) == sorted(in_order)
    files = [in_order.index(name) * 4 // 25 for name in mixed]
    assert {*files[:8]} == {*files[8:16]} == {0, 1, 2, 3}
    unmixed = sources.load("tfds:imagenet2012", "train", data_dir=str(imagenet["tfrecord"]))
    monkeypatch.setattr(sources.record_files, "MIXED", 1)
    assert names(unmixed, (0, 0)) != mixed


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_damaged_record_is_a_damaged_image(imagenet, tmp_path, file_format, share):
    prepared = tmp_path / "prepared"
    shutil.copytree(imagenet[file_format] / "imagenet2012" / "5.1.0", prepared)
    whole = {name: row for *row, name in examples(sources.load(f"tfds:{prepared}", "train"))}
    (file,) = prepared.glob("*train*-00001-of-*")
    content = bytearray(file.read_bytes())
    # ArrayRecord fills up blocks of 64 kB with zeros.
    used = [place for place, byte in enumerate(content[: 1 << 16]) if byte]
    for place in used[int(len(used) * share) :][:20]:
        content[place] ^= 0x5A
    file.write_bytes(content)

    found = examples(sources.load(f"tfds:{prepared}", "train"))
    damaged = {name for image, _, name in found if image == b""}
    # The file's name and a place in it: of TFRecord, that of each record from the damaged one on.
    assert damaged and all(name.startswith(f"{file.name}:") for name in damaged)
    assert len(found) == 25 and all([*row] == whole[n] for *row, n in found if n not in damaged)
    assert len(damaged) <= 7  # the file's


def test_a_download_that_fails_is_said_in_a_line(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(tfds.builder_cls("cifar10"), "download_and_prepare", fail)
    with pytest.raises(
        ConfigError, match="no route to host.*training.prepare tfds:cifar10 --data-dir"
    ):
        sources.load("tfds:cifar10", "train", data_dir=str(tmp_path))


def test_missing_files_are_noticed_at_once(imagenet, tmp_path):
    prepared = imagenet["tfrecord"] / "imagenet2012" / "5.1.0"
    for file in prepared.iterdir():
        if "train.tfrecord-00002" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    assert sources.load(f"tfds:{tmp_path}", "validation").count == 6
    with pytest.raises(ConfigError, match="lacks .*-train.tfrecord-00002-of-00004"):
        sources.load(f"tfds:{tmp_path}", "train")


def test_real_labels_may_be_many_or_none(imagenet, tmp_path, monkeypatch):
    real = [[65], [], [230, 231], [809], [516, 57, 9], [57]]
    cls = tfds.builder_cls("imagenet2012_real")
    # All that is replaced is the download of real.json.
    by_name = dict(zip(imagenet_tars.validation_images(), real, strict=True))
    monkeypatch.setattr(cls, "_get_real_labels", lambda *_: by_name)
    config = tfds.download.DownloadConfig(manual_dir=imagenet["tfrecord"].parent / "tars")
    cls(data_dir=tmp_path).download_and_prepare(download_config=config)
    images = sources.load("tfds:imagenet2012_real", "validation", data_dir=str(tmp_path))
    assert {name: y for _, y, name in examples(images)} == by_name
    assert images.class_names == english()
    with pytest.raises(ConfigError, match="no train images but validation"):
        sources.load("tfds:imagenet2012_real", "train", data_dir=str(tmp_path))


class SmallSet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Small sets that are like others, without a network."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, name: str, features: dict, splits: dict, **kwargs):
        self.name, self.features, self.content = name, features, splits
        super().__init__(**kwargs)

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(self.features)
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(rows) for name, rows in self.content.items()}

    def _generate_examples(self, rows):
        yield from enumerate(rows)


def prepared(folder: Path, name: str, features: dict, splits: dict) -> str:
    builder = SmallSet(name, features, splits, data_dir=folder)
    builder.download_and_prepare()
    return f"tfds:{builder.data_path}"


def test_splits_of_sets_without_validation_images(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(num_classes=2),
    }
    rows = [{"image": np.full((8, 8, 3), i, np.uint8), "label": i % 2} for i in range(4)]

    cifar = prepared(tmp_path, "like_cifar", features, {"train": rows[:3], "test": rows[3:]})
    train, test = sources.load(cifar, "train"), sources.load(cifar, "validation")
    assert (train.count, test.count, train.class_names) == (3, 1, ("0", "1"))
    ((image, label, name),) = examples(test)
    assert tf.io.decode_image(image).numpy().max() == 3 and label == [1]
    assert name == "like_cifar-test.tfrecord-00000-of-00001:0"

    flowers = {"train": rows[:1], "validation": rows[1:2], "test": rows[2:]}
    flowers = prepared(tmp_path, "oxford_flowers102", features, flowers)
    assert [sources.load(flowers, part).count for part in ("train", "validation")] == [2, 2]

    alone = prepared(tmp_path, "alone", features, {"train": rows})
    with pytest.raises(ConfigError, match=r"no validation images but train.*train\[90%:\]"):
        sources.load(alone, "validation")
    with pytest.raises(ConfigError, match="Unknown split 'test'"):
        sources.load(alone, "validation", "test")


def test_a_set_that_is_not_for_image_classification(tmp_path):
    text = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}
    source = prepared(tmp_path, "texts", text, {"train": [{"text": "a", "label": 0}]})
    with pytest.raises(ConfigError, match="It has label: ClassLabel, text: Text"):
        sources.load(source, "train")
