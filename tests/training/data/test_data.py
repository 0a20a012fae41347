"""Tests of training/data: what is fed, to whom, in which order, and what of damaged images."""

from __future__ import annotations

import dataclasses
import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from keras_cvt.imagenet import MEAN, STD, load_image
from training import augment, configs, data, show_batch
from training.config import Config, ConfigError
from training.data import reading, sources
from training.data.order import Order
from training.data.sources import Example

CLASSES = ("bird", "cat", "dog")
TRAIN, HELD_OUT = 42, 11  # images


def pieces(count: int) -> list[np.ndarray]:
    """Different parts of two photos, uint8 of different sizes."""
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    random = np.random.default_rng(0)
    result = []
    for number in range(count):
        height, width = (48, 64) if number % 2 else (60, 45)
        top, left = random.integers(427 - 2 * height), random.integers(640 - 2 * width)
        result.append(photos[number % 2][top : top + 2 * height : 2, left : left + 2 * width : 2])
    return result


def encoded(image: np.ndarray | Image.Image, kind: str = "jpeg") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **({"quality": 90} if kind == "jpeg" else {}))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Class folders of small JPEGs."""
    path = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(pieces(TRAIN + HELD_OUT)):
        part = "train" if number < TRAIN else "val"
        file = path / part / CLASSES[number % len(CLASSES)] / f"{number:02}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(image))
    return path


def config_for(folder: Path, **fields) -> Config:
    """Little of everything, so that all of it is in the batches compared."""
    return Config.from_dict(
        {
            "source": f"folder:{folder}",
            "model": "cvt13",
            "image_size": 24,
            "epochs": 3,
            "batch_size": 8,
            "mix_images": 4,
            "learning_rate": 1e-3,
            "augmenter": "none",  # RandAugment takes seconds to build
            "erase": 0.5,
            **fields,
        }
    )


PLAIN = {
    "crop_scale": None,
    "augmenter": "none",
    "flip": 0.0,
    "erase": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
    "evaluation_crop": None,
}


def batches_of(
    config: Config,
    images: data.RunData | None = None,
    damaged: data.Damaged | None = None,
    **where: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    images, damaged = images or data.load(config), damaged or data.Damaged(0)
    return list(data.training_batches(config, images, damaged, **where).as_numpy_iterator())


def assert_same(one: list[tuple], other: list[tuple]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def joined(parts: list[list[tuple]]) -> list[tuple]:
    """Batches of parts of steps as one batch for each step."""
    return [
        tuple(np.concatenate(arrays) for arrays in zip(*of_step, strict=True))
        for of_step in zip(*parts, strict=True)
    ]


def whole_steps(batches: list[tuple], replicas: int) -> list[tuple]:
    return joined([batches[replica::replicas] for replica in range(replicas)])


# A source without random access, as TFRecord is.


def fields_of(source: sources.Source) -> dict[str, Any]:
    """What all sources have."""
    return {f.name: getattr(source, f.name) for f in dataclasses.fields(sources.Source)}


def without_random_access(images: sources.Source) -> sources.Source:
    def stream(key: tf.Tensor | None, worker: int, workers: int) -> tf.data.Dataset:
        order = tf.range(images.count, dtype=tf.int64)
        if key is not None:
            order = tf.random.experimental.stateless_shuffle(order, seed=key)
        share = order[images.count * worker // workers : images.count * (worker + 1) // workers]
        return tf.data.Dataset.from_tensor_slices(share).map(images.at)

    return sources.Stream(**fields_of(images), stream=stream)


def both_streams(images: data.RunData) -> data.RunData:
    return data.RunData(
        without_random_access(images.train), without_random_access(images.validation)
    )


@pytest.fixture(scope="module", params=["random access", "stream"])
def access(request) -> Callable[[data.RunData], data.RunData]:
    return both_streams if request.param == "stream" else lambda images: images


# The digits


@pytest.fixture(scope="module")
def digits() -> Config:
    return configs.load("digits", ["image_size=16", "batch_size=256", "epochs=4"])


def test_the_digits_are_the_real_ones_normalized(digits):
    from sklearn.datasets import load_digits

    images = data.load(digits)
    assert (images.train.count, images.validation.count, images.channels) == (1437, 360, 1)
    ((x, y, weights),) = data.evaluation_batches(
        digits.data, images.validation, data.Damaged(0), 360
    ).as_numpy_iterator()
    assert x.shape == (360, 16, 16, 1) and x.dtype == np.float32
    assert x.min() == -1 and x.max() == 1 and weights.tolist() == [1] * 360
    assert sorted(y.argmax(-1)[:30].tolist()) == sorted(
        int(images.validation.at(i)["labels"][0]) for i in range(30)
    )
    # Twice the size, with bilinear weights: the mean of the middle pixels is the original's.
    small = {round(v, 1) for v in load_digits().images.mean((1, 2)) / 8 - 1}
    assert {round(float(v), 1) for v in x.mean((1, 2, 3))} <= small


def test_shifted_digits_have_paper_beyond_the_edge(digits):
    still, moved = (
        batches_of(digits.replace(max_shift=limit), first_step=19)[0][0] for limit in (0, 2)
    )
    places = set()
    for one, other in zip(still, moved, strict=True):
        room = np.pad(one, ((2, 2), (2, 2), (0, 0)), constant_values=-1)
        places |= {
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(room[y : y + 16, x : x + 16], other)
        }
    assert places == {(y, x) for y in range(5) for x in range(5)}


def test_gray_images_are_not_augmented_in_colour(digits):
    with pytest.raises(ConfigError, match="`augmenter` must be none for digits"):
        data.load(digits.replace(augmenter="timm"))


# Epochs


def test_the_order_of_a_run_is_that_of_all_versions(digits):
    """A run that another version has begun goes on with the same images."""
    order = Order(
        seed=3,
        attempt=1,
        worker=1,
        workers=2,
        batch_size=8,
        rows=4,
        group=2,
        rows_per_epoch=16,
        views=1,
        first_step=1,
        steps=3,
    )
    source = data.load(digits).train
    groups = source.groups(order, lambda rows: rows.batch(order.group))
    rows = [
        tuple(group[key].tolist() for key in ("epoch", "place", "index"))
        for group in groups.as_numpy_iterator()
    ]
    assert rows == [
        ([0, 0], [12, 13], [215, 572]),
        ([0, 0], [14, 15], [1067, 992]),
        ([1, 1], [4, 5], [1043, 648]),
        ([1, 1], [6, 7], [27, 82]),
    ]


def files_of(batches: list[tuple], images: sources.Source) -> list[int]:
    """Numbers of the images in batches of `PLAIN` configs, whose labels are checked too."""
    known = {}
    for number in range(images.count):
        example = images.at(tf.constant(number, tf.int64))
        pixels = tf.io.decode_jpeg(example["image"], dct_method="INTEGER_ACCURATE")
        pixels = augment.resize(pixels, 24)
        known[augment.normalize(pixels, MEAN, STD).numpy().tobytes()] = (
            number,
            int(example["labels"][0]),
        )
    found = []
    for x, y, *_ in batches:
        for image, label in zip(x, y, strict=True):
            number, expected = known.get(image.tobytes(), (None, None))
            found.append(number)
            if number is not None:
                assert label.tolist() == np.eye(len(CLASSES))[expected].tolist()
    return found


def test_an_epoch_has_each_image_at_most_once_and_full_batches(folder, access):
    config = config_for(folder, **PLAIN)
    images = data.load(config)
    batches = batches_of(config, access(images))
    assert len(batches) == 3 * (TRAIN // 8) == data.total_steps(config, images)
    assert {x.shape for x, _ in batches} == {(8, 24, 24, 3)}
    epochs = [files_of(batches[i : i + 5], images.train) for i in (0, 5, 10)]
    for epoch in epochs:
        assert None not in epoch and len(set(epoch)) == 40
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert len(set().union(*epochs)) == TRAIN  # those left out are others each time


def test_repeated_augmentation_shows_fewer_images_more_often(folder, access):
    config = config_for(folder, **PLAIN, repeated_augmentation=3)
    images = data.load(config)
    batches = batches_of(config, access(images))
    assert len(batches) == 15
    numbers = files_of(batches[5:10], images.train)
    assert len(set(numbers)) == 14
    assert all(numbers[i : i + 3] == [numbers[i]] * 3 for i in range(0, 39, 3))
    views, _ = batches_of(config.replace(crop_scale=(0.08, 1)), access(images))[0]
    assert not np.array_equal(views[0], views[1])  # each view has its own draws


def test_seed_and_attempt_change_everything(folder, alone):
    config = config_for(folder, epochs=1)
    for other in (
        batches_of(config.replace(seed=1)),
        batches_of(config, attempt=1),
    ):
        pairs = zip(alone[0][0], other[0][0], strict=True)
        assert not any(np.array_equal(one, image) for one, image in pairs)


def test_steps_instead_of_epochs_and_a_cool_down(folder):
    config = config_for(folder, epochs=None, steps=7, cooldown_epochs=1)
    assert data.total_steps(config, data.load(config)) == 12
    assert len(batches_of(config, first_step=10)) == 2
    assert batches_of(config, first_step=12) == []


# Any step, any number of workers


def test_a_run_goes_on_at_any_step_with_the_very_batches(folder, access):
    config = config_for(folder, repeated_augmentation=3)
    images = access(data.load(config))
    undisturbed = batches_of(config, images)
    for first_step in (5, 13):
        assert_same(undisturbed[first_step:], batches_of(config, images, first_step=first_step))


def test_the_whole_recipe_is_the_same_at_any_step(folder):
    config = config_for(folder, augmenter="timm")
    assert_same(batches_of(config)[13:], batches_of(config, first_step=13))


@pytest.fixture(scope="module")
def alone(folder) -> list[tuple]:
    return batches_of(config_for(folder, epochs=1))


@pytest.mark.parametrize(("workers", "replicas"), [(1, 8), (2, 2)])
def test_workers_and_replicas_share_the_batches_of_one(folder, alone, workers, replicas):
    config = config_for(folder, epochs=1)
    parts = [
        batches_of(config, worker=worker, workers=workers, replicas=replicas)
        for worker in range(workers)
    ]
    assert {len(x) for part in parts for x, _ in part} == {8 // workers // replicas}
    assert_same(alone, joined([whole_steps(part, replicas) for part in parts]))


def test_workers_of_a_stream_share_its_images(folder):
    config = config_for(folder, **PLAIN)
    images = data.load(config)
    parts = [
        batches_of(config, both_streams(images), worker=worker, workers=2) for worker in range(2)
    ]
    assert [len(part) for part in parts] == [15, 15]
    for first in (0, 5, 10):
        numbers = [n for part in parts for n in files_of(part[first : first + 5], images.train)]
        assert None not in numbers and len(set(numbers)) == 40
    resumed = batches_of(config, both_streams(images), worker=1, workers=2, first_step=7)
    assert_same(parts[1][7:], resumed)


def test_a_share_that_is_too_small_begins_again(folder):
    config = config_for(folder, **PLAIN, batch_size=14, mix_images=None)
    images = data.load(config)  # 42 images: 3 workers would have 14 each, but 4 have 10 or 11
    short = sources.Stream(
        **fields_of(images.train),
        stream=lambda key, worker, workers: (
            without_random_access(images.train).stream(key, worker, workers).take(19)
        ),
    )
    batches = batches_of(config, data.RunData(short, images.validation), worker=0, workers=2)
    numbers = files_of(batches[:3], images.train)
    assert len(batches) == 9 and len(numbers) == 21
    assert numbers[19:] == numbers[:2] and len(set(numbers)) == 19


def test_groups_are_mixed_each_by_itself(folder, alone):
    config = config_for(folder, epochs=1, mixup=0.0, cutmix=0.0, label_smoothing=0.0)
    plain = batches_of(config)
    for step, ((x, y), (mixed_x, mixed_y)) in enumerate(zip(plain, alone, strict=True)):
        for number in range(2):
            rows = slice(4 * number, 4 * number + 4)
            key = augment.key(config.run.seed, 0, 2 * step + number)
            expected = augment.mix(x[rows], y[rows], key)
            np.testing.assert_allclose(mixed_x[rows], expected[0], atol=1e-5)
            np.testing.assert_allclose(mixed_y[rows], expected[1], atol=1e-6)


def test_labels_are_smoothed_though_nothing_is_mixed(folder):
    config = config_for(folder, **{**PLAIN, "label_smoothing": 0.3})
    _, labels = batches_of(config)[0]
    np.testing.assert_allclose(np.sort(labels), [[0.1, 0.1, 0.8]] * 8, rtol=1e-6)


def test_keras_cv_takes_its_place(folder):
    for x, y in batches_of(config_for(folder, epochs=1, augmenter="keras_cv")):
        assert x.shape == (8, 24, 24, 3) and np.isfinite(x).all()
        np.testing.assert_allclose(y.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "where", "said"),
    [
        ({"batch_size": 43}, {}, "`batch_size` must be at most .* 42. Received 43"),
        ({}, {"workers": 3}, "`batch_size` must be a multiple of the number of devices, 3"),
        ({"mix_images": 8}, {"workers": 2}, "`mix_images` must divide .* 8 / 2 = 4. Received 8"),
        ({"mix_images": None}, {"workers": 2}, "`mix_images` must be a number .* 8 / 2 = 4"),
    ],
)
def test_what_does_not_fit_is_said_at_once(folder, fields, where, said):
    config = config_for(
        folder, **{"mix_images": None, **fields} if "batch_size" in fields else fields
    )
    with pytest.raises(ConfigError, match=said) as error:
        data.training_batches(config, data.load(config), data.Damaged(0), **where)
    assert "\n" not in str(error.value)


def test_both_parts_must_have_the_same_classes(folder, tmp_path):
    for name in ("cat", "cow"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "1.jpg").write_bytes(encoded(pieces(1)[0]))
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").write_bytes(encoded(pieces(1)[0]))
    config = config_for(folder, validation_source=f"folder:{tmp_path}")
    with pytest.raises(ConfigError, match="2 classes and 3. Only in one: bird, cow, dog"):
        data.load(config)


def test_a_photo_and_a_digit_do_not_go_together(folder, monkeypatch):
    digits = dataclasses.replace(sources.load("digits", "validation"), class_names=CLASSES)
    load = sources.load
    monkeypatch.setattr(
        sources, "load", lambda s, *rest: digits if s == "digits" else load(s, *rest)
    )
    with pytest.raises(ConfigError, match="as many channels .* Received 1 and 3"):
        data.load(config_for(folder, validation_source="digits"))


# Damaged images


@pytest.fixture(scope="module")
def damaged_folder(folder, tmp_path_factory) -> tuple[Path, list[str]]:
    """A copy, with unusual images and with four training images that can't be read; their names."""
    copy = tmp_path_factory.mktemp("damaged")
    files = sorted(folder.glob("*/*/*.jpg"), key=lambda path: path.name)
    image = Image.fromarray(pieces(3)[2])
    contents = {file: file.read_bytes() for file in files}
    unusual = [
        encoded(image, "png"),
        encoded(image.convert("CMYK")),
        encoded(image.convert("L")),
        encoded(image, "gif"),
        encoded(image.convert("RGBA"), "png"),
        encoded(image.convert("P"), "png"),
    ]
    contents.update(zip(files[:6], unusual, strict=True))
    half = contents[files[10]][: len(contents[files[10]]) // 2]
    bad = dict(zip(files[10:14], (half, b"no image at all", b"", b"\xff\xd8\xff\xe0"), strict=True))
    for file, content in {**contents, **bad}.items():
        there = copy / file.relative_to(folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content)
    return copy, sorted(str(copy / file.relative_to(folder)) for file in bad)


def test_damaged_images_are_replaced_and_named_and_nothing_else_changes(
    folder, damaged_folder, access, caplog
):
    path, bad = damaged_folder
    config = config_for(path, **{**PLAIN, "crop_scale": (1.0, 1.0)}, mix_images=None)
    intact = batches_of(config, access(data.load(config_for(folder))))
    images, damaged = access(data.load(config)), data.Damaged(4)
    batches = batches_of(config, images, damaged)
    assert sorted(damaged.names) == bad and damaged.error is None
    assert sorted(r.args[0] for r in caplog.records if r.levelno == logging.WARNING) == bad

    unusual = {str(path / n.relative_to(folder)) for n in folder.glob("train/*/0[0-5].jpg")}
    same = replaced = 0
    names = names_of_rows(config, images, len(batches))
    for (x, y), (x_intact, y_intact), of_rows in zip(batches, intact, names, strict=True):
        for row, name in enumerate(of_rows):
            if name in bad:
                following = next(
                    (row + k) % 8 for k in range(1, 8) if of_rows[(row + k) % 8] not in bad
                )
                np.testing.assert_array_equal(x[row], x[following])
                np.testing.assert_array_equal(y[row], y[following])
                replaced += 1
            elif name not in unusual:
                np.testing.assert_array_equal(x[row], x_intact[row])
                np.testing.assert_array_equal(y[row], y_intact[row])
                same += 1
    assert replaced >= 10 and same > 80
    assert_same(batches[7:], batches_of(config, images, data.Damaged(4), first_step=7))


def names_of_rows(config: Config, images: data.RunData, steps: int) -> list[list[str]]:
    """Of each batch, the files that should be in it."""
    source, result = images.train, []
    for epoch in range(config.optimization.epochs):
        key = augment.key(config.run.seed, 0, epoch)
        examples = source.examples(key).take(40)
        names = [e["name"].decode() for e in examples.as_numpy_iterator()]
        result += [names[i : i + 8] for i in range(0, 40, 8)]
    assert len(result) == steps
    return result


def test_unusual_images_look_as_in_pillow(damaged_folder):
    path, _ = damaged_folder
    images = data.load(config_for(path)).train
    seen = 0
    for number in range(images.count):
        name = images.at(tf.constant(number, tf.int64))["name"].numpy().decode()
        if Path(name).name in ("00.jpg", "02.jpg", "03.jpg"):
            found = reading.read(images, {"index": tf.constant(number, tf.int64)})
            expected = np.asarray(Image.open(name).convert("RGB"), int)
            assert found["damaged"] == b""
            assert np.abs(found["image"].numpy() - expected).max() <= 1
            seen += 1
    assert seen == 3


def test_a_file_that_is_gone_is_damaged_too(folder, tmp_path):
    for name in CLASSES:
        (tmp_path / "train" / name).mkdir(parents=True)
        for number, image in enumerate(pieces(4)):
            (tmp_path / "train" / name / f"{number}.jpg").write_bytes(encoded(image))
    config = config_for(tmp_path, batch_size=4, epochs=1, validation_source=f"folder:{folder}")
    images, damaged = data.load(config), data.Damaged(1)
    gone = tmp_path / "train" / "cat" / "2.jpg"
    gone.unlink()
    assert len(batches_of(config, images, damaged)) == 3
    assert list(damaged.names) == [str(gone)]


def test_one_damaged_image_too_many_stops_the_run(damaged_folder):
    path, bad = damaged_folder
    config = config_for(path, crop_scale=(1.0, 1.0))
    damaged = data.Damaged(3)
    with pytest.raises(tf.errors.OpError):
        batches_of(config, damaged=damaged)
    assert isinstance(damaged.error, ConfigError)
    message = str(damaged.error)
    assert message.startswith("4 images can't be read; `max_damaged` is 3: ")
    assert message.count(str(path)) == 3 and "\n" not in message
    assert sorted(damaged.names) == bad


def test_images_that_an_earlier_session_could_not_read_count():
    damaged = data.Damaged(2, {"a": None, "b": None})
    damaged.report([b"b", b"a"])
    with pytest.raises(data.DamagedError, match="^3 images can't be read"):
        damaged.report([b"c"])


def test_a_group_without_a_good_image_stops_the_run(tmp_path, folder):
    for name in CLASSES:
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "train" / name / f"{number}.jpg").write_bytes(b"nothing")
    config = config_for(tmp_path, batch_size=4, validation_source=f"folder:{folder}")
    damaged = data.Damaged(100)
    with pytest.raises(tf.errors.OpError):
        batches_of(config, damaged=damaged)
    assert "All of 4 successive images can't be read: " in str(damaged.error)


def test_evaluation_leaves_damaged_images_out(damaged_folder, access):
    path, bad = damaged_folder
    config = config_for(path, validation_split="train")
    images, damaged = access(data.load(config)), data.Damaged(4)
    batches = list(
        data.evaluation_batches(config.data, images.validation, damaged, 8).as_numpy_iterator()
    )
    assert sum(weights.sum() for _, _, weights in batches) == TRAIN - 4
    assert sorted(damaged.names) == bad
    damaged = data.Damaged(3)
    with pytest.raises(tf.errors.OpError):
        list(data.evaluation_batches(config.data, images.validation, damaged, 8))
    assert "4 images can't be read" in str(damaged.error)


# Evaluation


def numbered(count: int) -> sources.Source:
    """Decoded images that show their numbers."""

    def at(index: tf.Tensor) -> Example:
        image = tf.fill((2, 2, 1), tf.cast(index, tf.uint8))
        return {
            "image": image,
            "labels": index[tf.newaxis] % 3,
            "name": tf.strings.as_string(index),
        }

    return sources.RandomAccess(count, CLASSES, channels=1, mean=(0.0,), std=(1 / 255,), at=at)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("count", "batch_size", "workers", "replicas"),
    [
        *((n, b, 1, 1) for n, b in ((1, 1), (7, 7), (7, 3), (5, 8), (200, 64))),
        *((13, 8, 2, 1), (13, 8, 1, 2), (13, 8, 2, 2), (16, 8, 4, 2), (3, 8, 4, 1), (17, 8, 4, 2)),
    ],
)
def test_evaluation_counts_each_image_once(count, batch_size, workers, replicas, stream, digits):
    config = digits.replace(image_size=2)
    images = numbered(count)
    images = without_random_access(images) if stream else images
    found, lengths = [], set()
    for worker in range(workers):
        batches = list(
            data.evaluation_batches(
                config.data, images, data.Damaged(0), batch_size, worker, workers, replicas
            ).as_numpy_iterator()
        )
        lengths.add(len(batches))
        for x, y, weights in batches:
            assert len(x) == len(y) == len(weights) == batch_size // workers // replicas
            numbers = x[:, 0, 0, 0].round().astype(int)[weights == 1]
            assert set(weights.tolist()) <= {0.0, 1.0}
            assert y[weights == 1].tolist() == np.eye(3)[numbers % 3].tolist()
            found += numbers.tolist()
    assert sorted(found) == list(range(count))
    assert lengths == {-(-count // batch_size) * replicas}


def test_evaluation_with_many_right_classes_or_none(digits):
    labels = tf.ragged.constant([[0], [0, 2], [], [1, 0, 2]], dtype=tf.int64)

    def at(index: tf.Tensor) -> Example:
        image = tf.zeros((2, 2, 1), tf.uint8)
        return {"image": image, "labels": labels[index], "name": tf.constant("name")}

    images = dataclasses.replace(numbered(4), at=at)
    config, damaged = digits.replace(image_size=2), data.Damaged(0)
    for given in (images, without_random_access(images)):
        ((_, y, weights),) = data.evaluation_batches(
            config.data, given, damaged, 4
        ).as_numpy_iterator()
        assert y.tolist() == [[1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 1]]
        assert weights.tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize("crop", [0.875, 1.0, None])
def test_evaluation_sees_what_load_image_gives(crop, tmp_path, folder):
    photos = (
        load_sample_image("china.jpg"),
        load_sample_image("flower.jpg")[:, 100:371],
        load_sample_image("flower.jpg")[::3, ::3],  # smaller than the result
    )
    files = [tmp_path / "val" / name / "1.jpg" for name in CLASSES]
    for file, image in zip(files, photos, strict=True):
        file.parent.mkdir(parents=True)
        file.write_bytes(encoded(image))
    config = config_for(
        folder, validation_source=f"folder:{tmp_path}", image_size=224, evaluation_crop=crop
    )
    images = data.load(config)
    ((x, y, _),) = data.evaluation_batches(
        config.data, images.validation, data.Damaged(0), 3
    ).as_numpy_iterator()
    assert y.tolist() == np.eye(3).tolist()
    pixels = show_batch.denormalized(x, images.mean, images.std) * 255
    for file, mine in zip(files, pixels, strict=True):
        difference = np.abs(mine - load_image(file, 224, crop))
        assert difference.mean() < 0.25
        if crop is not None:  # without, Pillow 13 resizes the portrait over its height first
            assert difference.max() < 1.01 and np.mean(difference > 0.5) < 1e-3


@pytest.mark.parametrize("size", [24, 31, 32])
def test_evaluation_rounds_sizes_and_offsets_as_load_image(size):
    ramp = np.add.outer(np.arange(101), np.arange(199)).clip(0, 255)
    ramp = np.stack([ramp] * 3, axis=-1).astype(np.uint8)
    for height, width in ((101, 67), (67, 101), (64, 64), (50, 199), (33, 40), (100, 75)):
        image = ramp[:height, :width]
        for crop in (0.875, 0.9):
            expected = load_image(image, size, crop).astype(int)
            mine = data.evaluation_image(tf.constant(image), size, crop).numpy()
            # One pixel aside, the mean would differ by nearly one gray level or more.
            assert np.abs(mine - expected).mean() < 0.2


# A tf.data service


@pytest.fixture
def service():
    servers = tf.data.experimental.service
    dispatcher = servers.DispatchServer()
    address = dispatcher.target.split("://")[1]
    workers = [
        servers.WorkerServer(servers.WorkerConfig(dispatcher_address=address)) for _ in range(2)
    ]
    yield dispatcher.target
    for worker in workers:
        worker._stop()
    dispatcher._stop()


def test_a_service_prepares_the_same_batches(damaged_folder, access, service):
    path, bad = damaged_folder
    config = config_for(path, crop_scale=(1.0, 1.0))
    images, damaged = access(data.load(config)), data.Damaged(4)
    own = batches_of(config, images, data.Damaged(4))
    served = batches_of(config.replace(data_service=service), images, damaged)
    assert sorted(damaged.names) == bad  # known here, wherever they were found

    def groups(batches):
        return sorted(x[i : i + 4].tobytes() for x, _ in batches for i in (0, 4))

    # All of them, but perhaps in another order.
    assert len(served) == len(own)
    assert groups(served) == groups(own)


def test_a_service_that_does_not_answer_is_an_error(folder):
    for address in ("grpc://localhost:1", "localhost:1", "grpc://localhost"):
        with pytest.raises(ConfigError, match=f"`data_service` must be .*Received '{address}'"):
            batches_of(config_for(folder, data_service=address))


def test_a_source_that_needs_python_is_not_served(folder):
    config = config_for(folder, data_service="grpc://localhost:1")
    images = data.load(config)

    def at(index: tf.Tensor) -> Example:
        example = images.train.at(index)
        image = tf.numpy_function(lambda x: x, [example["image"]], tf.string)
        return {**example, "image": tf.ensure_shape(image, ())}

    with pytest.raises(ConfigError, match="`data_service` can't be used with folder"):
        batches_of(
            config, data.RunData(dataclasses.replace(images.train, at=at), images.validation)
        )


# Programs


def test_show_batch_draws_photos(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(configs, "load", lambda *_: config_for(folder))
    output = tmp_path / "sheet.png"
    assert show_batch.main(["--config", "digits", "--output", str(output), "--batch", "3"]) == 0
    picture = np.asarray(Image.open(output).convert("RGB"), int)
    assert picture.shape[1] > 5 * picture.shape[0]
    assert np.abs(picture[..., 0] - picture[..., 2]).mean() > 3  # in colour


def test_show_batch_names_damaged_images_in_one_line(damaged_folder, tmp_path, capsys, monkeypatch):
    config = config_for(damaged_folder[0], max_damaged=0, batch_size=42, mix_images=None)
    monkeypatch.setattr(configs, "load", lambda *_: config.replace(crop_scale=(1, 1)))
    assert show_batch.main(["--config", "digits", "--output", str(tmp_path / "a.png")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("training.show_batch: error: ") and "can't be read" in error
    assert list(tmp_path.iterdir()) == []
