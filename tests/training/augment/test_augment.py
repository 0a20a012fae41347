"""Tests of training/augment/: operations against Pillow, draws against their distributions.

All draws are keyed, so that a statistical test gives the same result each time; its bounds are what
chance alone passes in 999 of 1,000 cases.
"""

from __future__ import annotations

import io
import math
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from augment_cases import over_numbers, photos, pillow
from PIL import Image
from scipy import stats

from benchmarks import pillow_recipe
from keras_cvt.imagenet import MEAN, STD
from training import augment
from training.augment import operations, policy, resizing


def test_resize_is_pillows_bicubic_to_a_fraction_of_a_gray_level():
    for image in [*photos(), photos()[0][:100, :120]]:  # smaller than the result: enlarged
        theirs = Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC)
        mine = augment.resize(tf.constant(image), 224).numpy()
        assert mine.dtype == np.uint8
        assert np.abs(mine.astype(int) - np.asarray(theirs)).mean() < 0.25


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizing_by_matrix_products_is_tensorflows(interpolation):
    random = np.random.default_rng(0)
    sides = [(1, 1, 9, 7), (1, 300, 20, 64), (2, 3, 224, 224), (300, 211, 1, 17), (64, 64, 64, 64)]
    for largest in (20, 60, 300) * 4:
        sides.append((*random.integers(1, largest, 2), *random.integers(1, 250, 2)))
    resize = tf.function(resizing._resize, reduce_retracing=True)
    for height, width, *size in sides:
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        mine = resize(image, *(tf.constant(side, tf.int32) for side in size), interpolation)
        theirs = tf.image.resize(image, size, interpolation, antialias=True)
        np.testing.assert_allclose(mine, theirs, atol=0.005)  # of 255; both calculate in float32


# The draws


def test_rand_augment_draws():
    count = 20_000
    numbers, magnitudes, signs = over_numbers(
        lambda i: policy._rand_augment_draws(augment.key(3, i), 2, 0.5, 9.0, 0.5), count
    )
    assert numbers.shape == magnitudes.shape == signs.shape == (count, 2)
    applied = numbers < 15
    # Applied or not, the second independent of the first.
    pairs = np.bincount(2 * applied[:, 0] + applied[:, 1], minlength=4)
    assert stats.chisquare(pairs).pvalue > 0.001
    drawn = np.bincount(numbers[applied], minlength=15)
    assert len(drawn) == 15
    assert stats.chisquare(drawn).pvalue > 0.001
    both = numbers[applied.all(axis=1)]
    assert abs((both[:, 0] == both[:, 1]).mean() - 1 / 15) < 3.3 * math.sqrt(1 / 15 / len(both))
    assert magnitudes.max() == 10
    clipped = (magnitudes == 10).mean()
    assert abs(clipped - stats.norm.sf(2)) < 3.3 * math.sqrt(0.0228 / magnitudes.size)
    below = magnitudes[magnitudes < 10].astype(float)
    assert stats.kstest(below, stats.truncnorm(-np.inf, 2, 9, 0.5).cdf).pvalue > 0.001
    assert set(np.unique(signs)) == {-1, 1}
    assert abs((signs == 1).mean() - 0.5) < 3.3 * 0.5 / math.sqrt(signs.size)
    for one, other in ((numbers, magnitudes), (numbers, signs), (signs, magnitudes)):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 3.3 / math.sqrt(2 * count)


def test_rand_augment_applies_what_was_drawn():
    image = photos()[0][:96, :128]
    mine = over_numbers(lambda i: augment.rand_augment(image, augment.key(0, i)), 40)
    names = list(operations.OPERATIONS)
    for number, result in enumerate(mine):
        draws = policy._rand_augment_draws(augment.key(0, number), 2, 0.5, 9.0, 0.5)
        expected = image
        for name, magnitude, sign in zip(*(d.numpy() for d in draws), strict=True):
            if name < len(names):
                expected = pillow(names[name], expected, float(magnitude), float(sign))
        # A difference of one, from an interpolation, may become larger by the next operation.
        assert np.abs(result.astype(int) - expected).mean() < 0.05


@pytest.mark.parametrize(("height", "width"), [(375, 500), (60, 200), (200, 60), (64, 64)])
def test_crop_boxes_are_torchvisions(height, width):
    count = 3000
    boxes = over_numbers(lambda i: augment.crop_box(height, width, augment.key(1, i)), count)
    top, left, heights, widths = boxes.T
    assert boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] > 0).all()
    assert (top + heights <= height).all()
    assert (left + widths <= width).all()

    random = np.random.default_rng(0)
    theirs = np.array([pillow_recipe.crop_box(height, width, random) for _ in range(count)])

    def features(rows):
        return (
            rows[:, 2] * rows[:, 3] / (height * width),
            rows[:, 3] / rows[:, 2],
            rows[:, 0] / np.maximum(height - rows[:, 2], 1),
            rows[:, 1] / np.maximum(width - rows[:, 3], 1),
        )

    for one, other in zip(features(boxes), features(theirs), strict=True):
        assert stats.ks_2samp(one, other).pvalue > 0.001


def test_a_crop_box_falls_back_to_the_centre():
    box = augment.crop_box(20, 1000, augment.key(0, 0))
    np.testing.assert_array_equal(box, [0, 486, 20, 27])
    box = augment.crop_box(1000, 20, augment.key(0, 0), scale=(0.9, 1.0))
    np.testing.assert_array_equal(box, [486, 0, 27, 20])


def test_flip_mirrors_half_of_the_images():
    image = tf.reshape(tf.range(12), (2, 2, 3))
    flipped = over_numbers(lambda i: augment.flip(image, augment.key(0, i)), 2000)
    mirrored = (flipped == image.numpy()[:, ::-1]).all(axis=(1, 2, 3))
    assert ((flipped == image.numpy()).all(axis=(1, 2, 3)) ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 3.3 * 0.5 / math.sqrt(2000)


def test_erasing():
    size, count = 64, 2000
    whole = tf.zeros((size, size, 3))
    images = over_numbers(lambda i: augment.erase(whole, augment.key(2, i)), count)
    erased = (images != 0).all(axis=-1)
    np.testing.assert_array_equal(erased, (images != 0).any(axis=-1))
    touched = erased.any(axis=(1, 2))
    assert abs(touched.mean() - 0.25) < 3.3 * math.sqrt(0.25 * 0.75 / count)

    noise = images[erased]
    assert stats.kstest(noise.ravel()[:20_000].astype(float), stats.norm.cdf).pvalue > 0.001
    heights = erased[touched].any(axis=2).sum(axis=1)
    widths = erased[touched].any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(erased[touched].sum(axis=(1, 2)), heights * widths)  # boxes

    random = np.random.default_rng(0)

    def by_the_rule():
        while True:
            area = random.uniform(0.02, 1 / 3) * size * size
            ratio = math.exp(random.uniform(math.log(0.3), -math.log(0.3)))
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < size and w < size:
                return h, w, random.integers(size - h + 1)

    theirs = np.array([by_the_rule() for _ in range(2000)])
    tops = erased[touched].any(axis=2).argmax(axis=1)
    for mine, other in ((heights, 0), (widths, 1), (tops, 2)):
        assert stats.ks_2samp(mine, theirs[:, other]).pvalue > 0.001


def test_erasing_never_and_always():
    image = tf.zeros((32, 48, 3))
    for number in range(5):
        key = augment.key(0, number)
        assert not augment.erase(image, key, 0.0).numpy().any()
        assert augment.erase(image, key, 1.0).numpy().any()


# The whole


def transformed(parallel: int, transform, count: int = 12) -> np.ndarray:
    images = tf.data.Dataset.range(count).map(
        lambda i: transform(i, tf.constant(photos()[1])), num_parallel_calls=parallel
    )
    return np.stack(list(images.as_numpy_iterator()))


def test_the_same_key_gives_the_same_image_at_any_parallelism():
    transform = augment.train_transform(48, seed=7)
    alone = transformed(1, transform)
    assert alone.shape == (12, 48, 48, 3)
    assert alone.dtype == np.float32
    np.testing.assert_array_equal(alone, transformed(8, transform))
    assert len({image.tobytes() for image in alone}) == 12
    assert not np.array_equal(alone, transformed(1, augment.train_transform(48, seed=8)))


def test_eager_is_as_in_a_graph_and_an_index_may_be_a_vector():
    transform = augment.train_transform(40, seed=1)
    image = photos()[1]
    in_graph = tf.function(transform)
    for place in range(6):
        eager = transform((2, place), image)
        np.testing.assert_allclose(in_graph(tf.constant([2, place]), image), eager, atol=1e-5)
    assert not np.array_equal(transform((2, 1), image), transform((1, 2), image))


def test_a_pipeline_may_decode_only_the_crop():
    buffer = io.BytesIO()
    Image.fromarray(photos()[0]).save(buffer, "jpeg", quality=95, subsampling=0)
    whole = tf.io.decode_jpeg(buffer.getvalue())
    for number in range(4):
        shape = tf.io.extract_jpeg_shape(buffer.getvalue())
        box = augment.crop_box(shape[0], shape[1], augment.key(1, number))
        crop = tf.io.decode_and_crop_jpeg(buffer.getvalue(), box)
        options = {"erase_probability": 1.0, "augmenter": "none"}
        cropped = augment.train_transform(64, 1, crop=False, **options)(number, crop)
        np.testing.assert_array_equal(
            cropped, augment.train_transform(64, 1, **options)(number, whole)
        )


def test_sizes_need_not_be_known_and_floats_are_welcome():
    transform = augment.train_transform(32, seed=0)
    signature = [tf.TensorSpec((), tf.int64), tf.TensorSpec((None, None, 3), tf.float32)]
    in_graph = tf.function(transform, input_signature=signature)
    assert in_graph.get_concrete_function().output_shapes == (32, 32, 3)
    for number, image in enumerate(photos()):
        floats = in_graph(tf.constant(number, tf.int64), tf.constant(image, tf.float32))
        np.testing.assert_allclose(floats, transform(number, image), atol=1e-5)


def test_normalization():
    transform = augment.train_transform(
        32, augmenter="none", flip_probability=0.0, erase_probability=0.0
    )
    image = np.full((50, 60, 3), (255, 0, 51), np.uint8)
    expected = (np.array([1, 0, 0.2]) - MEAN) / STD
    np.testing.assert_allclose(transform(0, image)[3, 4], expected, atol=1e-5)


def test_it_runs_when_tensorflow_must_be_deterministic():
    from tensorflow.python.framework.config import disable_op_determinism

    before = transformed(2, augment.train_transform(32, seed=3), 40)
    tf.config.experimental.enable_op_determinism()
    try:
        after = transformed(2, augment.train_transform(32, seed=3), 40)
    finally:
        disable_op_determinism()
    np.testing.assert_array_equal(before, after)


def test_the_example_of_the_docstring_trains_a_model():
    images = tf.random.stateless_uniform((8, 40, 50, 3), (0, 1), 0, 255)
    examples = tf.data.Dataset.from_tensor_slices((images, tf.one_hot(tf.range(8), 8)))
    transform = augment.train_transform(image_size=32, seed=1)
    batches = examples.repeat().enumerate()
    batches = batches.map(lambda i, xy: (transform(i, xy[0]), xy[1]), tf.data.AUTOTUNE)
    batches = batches.batch(4, drop_remainder=True).enumerate()
    batches = batches.map(lambda i, xy: augment.mix(*xy, augment.key(1, i)), tf.data.AUTOTUNE)
    model = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8)])
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    history = model.fit(batches, steps_per_epoch=2, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


# keras-cv


def test_keras_cv_behind_the_same_interface():
    transform = augment.train_transform(32, seed=0, augmenter="keras_cv")
    images = transformed(1, transform, 4)
    assert images.shape == (4, 32, 32, 3)
    assert np.isfinite(images).all()

    def mixed(number):
        return augment.mix(images, tf.eye(4), augment.key(0, number), augmenter="keras_cv")

    pixels, labels = over_numbers(mixed, 6)
    assert pixels.shape == (6, 4, 32, 32, 3)
    np.testing.assert_allclose(labels.sum(axis=-1), 1, rtol=1e-5)


def test_a_missing_keras_cv_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    with pytest.raises(ImportError, match="pip install keras-cv"):
        augment.train_transform(32, augmenter="keras_cv")


def test_an_unknown_augmenter_is_refused():
    with pytest.raises(ValueError, match="must be one of timm, keras_cv, none. Received 'kerascv'"):
        augment.train_transform(32, augmenter="kerascv")
    with pytest.raises(ValueError, match="must be one of"):
        augment.mix(tf.ones((2, 4, 4, 3)), tf.eye(2), augment.key(0), augmenter="kerascv")
