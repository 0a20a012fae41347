"""keras_cvt.images: the Pillow form and the TensorFlow form of preprocessing are one function."""

import dataclasses
import io
import pathlib

import memory
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_cvt.images import graph, graph_decode, load, transform
from keras_cvt.images.preprocessing import MEAN, STD, Preprocessing


def photos():
    """Name -> a real photo, uint8 (height, width, 3), of several proportions."""
    import foolbox

    china, flower = load_sample_images().images
    files = sorted((pathlib.Path(foolbox.__file__).parent / "data").glob("imagenet_0[0-2]_*.jpg"))
    assert len(files) == 3
    return {
        "landscape": china,
        "portrait": np.ascontiguousarray(flower.transpose(1, 0, 2)),
        "narrow": np.ascontiguousarray(china[:, 200:320]),
        "wide": np.ascontiguousarray(flower[150:250]),
        "small": np.ascontiguousarray(flower[::4, ::4]),
        **{file.stem: np.asarray(Image.open(file).convert("RGB")) for file in files},
    }


def jpeg(photo):
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "jpeg", quality=92)
    return file.getvalue()


WITH_CROP = Preprocessing(224)
WITHOUT_CROP = Preprocessing(384)
GRAY = Preprocessing(224, mean=(0.4,), std=(0.2,))
TWO_SIDES = Preprocessing((96, 160), 0.9, interpolation="bilinear")


def decoded(file, preprocessing):
    picture = graph_decode.decode(tf.constant(file), preprocessing.background)
    return graph_decode.to_gray(picture) if preprocessing.channels == 1 else picture


@pytest.mark.parametrize(
    "preprocessing",
    [WITH_CROP, WITHOUT_CROP, GRAY, TWO_SIDES],
    ids=lambda p: f"{p.input_shape}",
)
def test_both_forms_read_a_photo_alike(preprocessing):
    for name, photo in photos().items():
        file = jpeg(photo)
        picture = decoded(file, preprocessing)
        read = graph.resize_and_crop(picture[tf.newaxis], preprocessing)[0].numpy()
        expected = load.load(file, preprocessing)
        assert read.dtype == expected.dtype == np.uint8
        assert read.shape == expected.shape == preprocessing.input_shape
        difference = np.abs(read.astype(int) - expected)
        # Bilinear weights are small fractions: more values lie halfway.
        share = 7e-4 if preprocessing.interpolation == "bicubic" else 5e-3
        assert difference.max() <= 1 and np.mean(difference > 0) <= share, name

        np.testing.assert_allclose(
            graph.normalize(tf.constant(read), preprocessing.mean, preprocessing.std),
            transform.normalize(read, preprocessing.mean, preprocessing.std),
            atol=5e-7,
        )


def test_pictures_of_a_batch_do_not_touch_one_another():
    images = np.stack([photos()["landscape"], load_sample_images().images[1]])
    together = graph.resize_and_crop(tf.constant(images), WITH_CROP).numpy()
    for image, row in zip(images, together, strict=True):
        alone = graph.resize_and_crop(tf.constant(image[np.newaxis]), WITH_CROP).numpy()[0]
        np.testing.assert_array_equal(row, alone)


@pytest.mark.parametrize(("crop", "side"), [(None, 224), (0.875, 256)])
def test_a_picture_of_the_right_size_keeps_its_pixels(crop, side):
    photo = photos()["landscape"][:side, : side + 40 if crop else side]
    top, left = ((part - 224) // 2 for part in photo.shape[:2])
    preprocessing = Preprocessing(224, crop)
    read = graph.resize_and_crop(tf.constant(photo[np.newaxis]), preprocessing)[0].numpy()
    np.testing.assert_array_equal(read, photo[top : top + 224, left : left + 224])
    np.testing.assert_array_equal(read, load.load(photo, preprocessing))


def test_sizes_and_offsets_are_rounded_alike():
    """A ramp: one pixel aside, the mean would differ by nearly one gray level."""
    ramp = np.add.outer(np.arange(101), np.arange(199)).clip(0, 255)
    ramp = np.stack([ramp] * 3, axis=-1).astype(np.uint8)
    for height, width in ((101, 67), (67, 101), (64, 64), (50, 199), (33, 40), (100, 75), (1, 60)):
        for size in (24, 31, 32):
            for crop in (0.875, 0.9, None):
                preprocessing = Preprocessing(size, crop)
                image = ramp[:height, :width]
                read = graph.resize_and_crop(tf.constant(image[np.newaxis]), preprocessing)[0]
                expected = load.load(image, preprocessing).astype(int)
                # Many values of a ramp lie halfway.
                assert np.abs(read.numpy() - expected).mean() < 0.15


def test_only_what_is_kept_of_a_thin_picture_is_computed():
    """Whole, it would be 256 x 10,240,000 pixels: 7.9 GB."""
    thin = tf.zeros((1, 2, 80_000, 3), tf.uint8) + 7
    assert np.unique(graph.resize_and_crop(thin, WITH_CROP)).tolist() == [7]


@pytest.mark.parametrize("size", [(10, 20_000), (20_000, 10)])
def test_a_thin_picture_takes_no_more_memory_than_others(size):
    image = tf.zeros((1, *size, 3), tf.uint8)
    with memory.peak() as peak:
        graph.resize_and_crop(image, WITH_CROP)
    assert peak.bytes < 250e6


def test_a_transparent_png_lies_on_the_background():
    china = load_sample_images().images[0][:224, :224]
    alpha = np.repeat(np.arange(224, dtype=np.uint8), 224).reshape(224, 224, 1)
    file = io.BytesIO()
    Image.fromarray(np.concatenate([china, alpha], axis=-1)).save(file, "png")
    for background in ((255, 255, 255), (10, 200, 90)):
        preprocessing = dataclasses.replace(WITH_CROP, crop=None, background=background)
        read = decoded(file.getvalue(), preprocessing).numpy().astype(int)
        expected = load.load(file.getvalue(), preprocessing)
        assert np.abs(read - expected).max() <= 1
        assert np.abs(read[0] - background).max() == 0


def test_the_official_crop_ends_at_384_pixels():
    assert [Preprocessing(size).crop for size in (224, 383, 384, (383, 500))] == [
        0.875,
        0.875,
        None,
        0.875,
    ]
    assert (WITH_CROP.mean, WITH_CROP.std, WITH_CROP.channels) == (MEAN, STD, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mean": (0.5,)}, "mean and std"),
        ({"mean": (0.5,), "std": (0.0,)}, "std must be above 0"),
        ({"interpolation": "nearest"}, "interpolation must be 'bicubic' or 'bilinear'"),
        ({"crop": 1.5}, "crop must be from 0.01 to 1"),
    ],
)
def test_wrong_descriptions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(224, **arguments)
