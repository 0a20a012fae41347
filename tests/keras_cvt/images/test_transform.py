"""load_image: how pictures are resized and cropped."""

import memory
import numpy as np
import pytest
from pictures import difference, encode
from PIL import Image

from keras_cvt.imagenet import load_image
from keras_cvt.images import transform
from keras_cvt.images.preprocessing import Preprocessing


def bicubic(image, height, width):
    """Antialiased bicubic resize (Keys' kernel, a = -0.5) as two matrix products in float64."""

    def kernel(x):
        x = np.abs(x)
        near = 1.5 * x**3 - 2.5 * x**2 + 1
        far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x < 1, near, np.where(x < 2, far, 0))

    def matrix(old, new):
        scale = old / new
        centers = (np.arange(new)[:, None] + 0.5) * scale
        weights = kernel((np.arange(old) + 0.5 - centers) / max(scale, 1))
        return weights / weights.sum(1, keepdims=True)

    rows, columns = matrix(image.shape[0], height), matrix(image.shape[1], width)
    return np.clip(np.einsum("ih,hwc,jw->ijc", rows, image, columns, optimize=True), 0, 255)


# Width and height of the picture; its size after torchvision's Resize(256); left and top of its
# CenterCrop(224). Worked out by hand: 640 * 256 / 427 = 383.7 is cut to 383, and
# (383 - 224) / 2 = 79.5 rounds to 80, but (341 - 224) / 2 = 58.5 to 58.
OFFICIAL_224 = [
    ((640, 427), (383, 256), (80, 16)),
    ((427, 640), (256, 383), (16, 80)),
    ((400, 300), (341, 256), (58, 16)),
    ((300, 400), (256, 341), (16, 58)),
    ((333, 227), (375, 256), (76, 16)),
    ((337, 501), (256, 380), (16, 78)),
    ((300, 300), (256, 256), (16, 16)),
    ((256, 256), (256, 256), (16, 16)),
    ((224, 224), (256, 256), (16, 16)),
    ((17, 11), (395, 256), (86, 16)),
    ((1, 3), (256, 768), (16, 272)),
    ((1, 1), (256, 256), (16, 16)),
]


@pytest.mark.parametrize(("size", "resized", "corner"), OFFICIAL_224)
def test_official_transform_at_224(photos, size, resized, corner):
    for photo in photos:
        picture = Image.fromarray(photo)
        if size[0] < size[1]:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        picture = picture.crop((0, 0, *size))
        expected = picture.resize(resized, Image.Resampling.BICUBIC)
        expected = np.array(expected)[corner[1] : corner[1] + 224, corner[0] : corner[0] + 224]
        result = load_image(encode(picture))
        assert result.dtype == np.uint8 and result.shape == (224, 224, 3)
        np.testing.assert_array_equal(result, expected)
        np.testing.assert_array_equal(load_image(picture, 224, crop=0.875), expected)
        np.testing.assert_array_equal(load_image(np.array(picture)), expected)


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (301, 200), (7, 5)])
def test_official_transform_at_384(photos, size):
    for photo in photos:
        picture = Image.fromarray(photo)
        if size[0] < size[1]:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        picture = picture.crop((0, 0, *size))
        # The width first: the official evaluation's Pillow did so, Pillow 13 does not always.
        expected = picture.resize((384, picture.height), Image.Resampling.BICUBIC)
        expected = np.array(expected.resize((384, 384), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(load_image(picture, 384), expected)
        np.testing.assert_array_equal(load_image(picture, (384, 384)), expected)
        np.testing.assert_array_equal(load_image(picture, 384, crop=None), expected)


def test_filter_is_bicubic_with_antialiasing(photos):
    bilinear = Image.Resampling.BILINEAR
    for photo in photos:
        # Pillow rounds, and clips at 0 and 255, after each of its two passes: in the mean, well
        # below one grey level. The nearest other filters are two and more times as far away.
        expected = bicubic(photo, 256, 383)[16:240, 80:304]
        assert difference(load_image(photo), expected).mean() < 0.35
        expected = bicubic(photo, 384, 384)
        assert difference(load_image(photo, 384), expected).mean() < 0.35
        other = np.array(Image.fromarray(photo).resize((384, 384), bilinear))
        assert difference(other, expected).mean() > 0.6


def test_other_crops_and_sizes(photos):
    picture = Image.fromarray(photos[0])  # 640 x 427

    def reference(resized, box):
        return np.array(picture.resize(resized, Image.Resampling.BICUBIC).crop(box))

    # int(224 / 0.9) = 248, 248 * 640 / 427 = 371.7
    np.testing.assert_array_equal(
        load_image(picture, crop=0.9), reference((371, 248), (74, 12, 298, 236))
    )
    # The whole short side.
    np.testing.assert_array_equal(
        load_image(picture, crop=1), reference((335, 224), (56, 0, 280, 224))
    )
    # A box of 128 x 320 (height x width): here the width decides, 320 * 427 / 640 = 213.5.
    np.testing.assert_array_equal(
        load_image(picture, (112, 280)), reference((320, 213), (20, 50, 300, 162))
    )
    # A box of 320 x 128: the height decides.
    np.testing.assert_array_equal(
        load_image(picture, [280, 112]), reference((479, 320), (184, 20, 296, 300))
    )
    np.testing.assert_array_equal(
        load_image(picture, (48, 80), crop=None), reference((80, 48), (0, 0, 80, 48))
    )
    # "official" between the two official sizes: cropped below 384, not from 384 on.
    np.testing.assert_array_equal(load_image(picture, 383), load_image(picture, 383, 0.875))
    np.testing.assert_array_equal(
        load_image(picture, (512, 384)), load_image(picture, (512, 384), None)
    )
    np.testing.assert_array_equal(load_image(picture, np.int64(224)), load_image(picture))


@pytest.mark.parametrize("crop", [0, -0.5, 1.01, float("nan"), "center", (0.5, 0.5)])
def test_bad_crop(small, crop):
    with pytest.raises(ValueError, match="crop must be"):
        load_image(small, crop=crop)


@pytest.mark.parametrize("size", [0, -1, 224.0, "224", None, (224,), (224, 0), (1, 2, 3), (2.5, 2)])
def test_bad_image_size(small, size):
    with pytest.raises(ValueError, match="image_size must be"):
        load_image(small, size)


@pytest.mark.parametrize("size", [(5, 90), (90, 5), (7, 300)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_thin_picture_is_cut_first_and_looks_the_same(photos, size, interpolation, monkeypatch):
    picture = Image.fromarray(photos[0][: size[1], : size[0]])
    preprocessing = Preprocessing(24, 0.875, interpolation=interpolation)
    whole = {}
    for limit in (10**9, 1):
        monkeypatch.setattr(transform, "_THIN", limit)
        whole[limit] = np.asarray(transform.resize_and_crop(picture, preprocessing), int)
    assert np.abs(whole[1] - whole[10**9]).max() <= 1
    assert np.mean(whole[1] != whole[10**9]) < 0.01


@pytest.mark.parametrize("size", [(10, 20_000), (20_000, 10)])
def test_a_thin_picture_takes_no_more_memory_than_others(size):
    picture = Image.new("RGB", size, "red")
    with memory.peak() as peak:
        assert np.unique(load_image(picture)).tolist() == [0, 255]
    assert peak.bytes < 50e6
