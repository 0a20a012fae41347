"""Training batches: what is fed, to whom, in which order (training/data/pipeline.py)."""

from __future__ import annotations

import numpy as np
import pytest
from data_cases import (
    PLAIN,
    TRAIN,
    assert_same,
    batches_of,
    both_streams,
    config_for,
    fields_of,
    files_of,
    joined,
    whole_steps,
    without_random_access,
)

from keras_cvt.images import graph_decode
from training import augment, data
from training.config import ConfigError
from training.data import reading, sources
from training.data.order import Order


@pytest.fixture(scope="module", autouse=True)
def common_pictures():
    """All are plain JPEGs here. What reads any picture takes longer to trace than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_decoder", lambda upright, pillow: graph_decode._decode_common)
        yield


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


def test_a_run_goes_on_at_any_step_with_the_very_batches(folder, access):
    config = config_for(folder, repeated_augmentation=3)
    images = access(data.load(config))
    undisturbed = batches_of(config, images)
    for first_step in (5, 13):
        assert_same(undisturbed[first_step:], batches_of(config, images, first_step=first_step))


def test_the_whole_recipe_is_the_same_at_any_step(folder):
    config = config_for(folder, augmenter="timm")
    assert_same(batches_of(config)[13:], batches_of(config, first_step=13))


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
