"""keras_cvt.imagenet: preprocessing, reading images, naming predictions."""

import ast
import http.server
import io
import json
import pathlib
import struct
import sys
import threading
import time

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cvt import imagenet
from keras_cvt.imagenet import (
    ImageError,
    decode_predictions,
    labels,
    load_image,
    preprocess_input,
    synsets,
)

# ---------------------------------------------------------------- helpers


@pytest.fixture(scope="module")
def photos():
    """Two real photos, (427, 640, 3) uint8."""
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    assert [image.shape for image in images] == [(427, 640, 3)] * 2
    return images


@pytest.fixture(scope="module")
def small(photos):
    """A photo of (40, 60, 3), for what does not depend on the content."""
    return np.array(Image.fromarray(photos[0]).resize((60, 40)))


def encode(image, format="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(source, like):
    """What load_image makes of a source when nothing is to be resized or cropped."""
    result = load_image(source, image_size=like.shape[:2], crop=None)
    assert result.dtype == np.uint8 and result.shape == (*like.shape[:2], 3)
    return result


def on_white(color, alpha):
    """Composites (H, W, 3) with (H, W), both 0..255, on white."""
    alpha = alpha[..., None] / 255
    return color * alpha + 255 * (1 - alpha)


def difference(a, b):
    return np.abs(a.astype("float64") - b)


# ---------------------------------------------------------------- preprocess_input


def expected_normalized(x):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return (np.asarray(x, "float64") / 255 - mean) / std


@pytest.mark.parametrize("shape", [(3,), (4, 5, 3), (2, 4, 5, 3), (2, 1, 4, 5, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64"])
def test_preprocess_array(shape, dtype):
    x = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    before = x.copy()
    y = preprocess_input(x)
    assert isinstance(y, np.ndarray) and y.dtype == np.float32 and y.shape == shape
    np.testing.assert_allclose(y, expected_normalized(x), atol=1e-6)
    np.testing.assert_array_equal(x, before)


def test_preprocess_constants_and_range():
    assert imagenet.MEAN == (0.485, 0.456, 0.406)
    assert imagenet.STD == (0.229, 0.224, 0.225)
    low, high = preprocess_input(np.array([[0, 0, 0], [255, 255, 255]], "uint8"))
    np.testing.assert_allclose(low, [-2.117904, -2.035714, -1.804444], atol=1e-6)
    np.testing.assert_allclose(high, [2.248908, 2.428571, 2.64], atol=1e-6)


def test_preprocess_list():
    np.testing.assert_array_equal(
        preprocess_input([[1, 2, 3]]), preprocess_input(np.array([[1, 2, 3]]))
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_preprocess_tensor_equals_array(dtype):
    x = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3)).astype("uint8")
    tensor = keras.ops.cast(keras.ops.convert_to_tensor(x), dtype)
    y = preprocess_input(tensor)
    assert keras.ops.is_tensor(y) and keras.backend.standardize_dtype(y.dtype) == "float32"
    y = keras.ops.convert_to_numpy(y)
    np.testing.assert_allclose(y, preprocess_input(x), atol=1e-6)  # 0..255 are exact in bfloat16
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "int32")), x)


def test_preprocess_in_functional_model(tmp_path):
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(inputs, preprocess_input(inputs))
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(2).integers(0, 256, (2, 4, 5, 3)).astype("uint8")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        y = keras.ops.convert_to_numpy(each(x))
        np.testing.assert_allclose(y, preprocess_input(x), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf tensors are foreign there")
def test_preprocess_in_tf_data(small):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensors(small).map(preprocess_input)
    assert dataset.element_spec.dtype == tf.float32
    (y,) = dataset.as_numpy_iterator()
    np.testing.assert_allclose(y, preprocess_input(small), atol=1e-6)
    # decode_image does not even know the rank.
    dataset = tf.data.Dataset.from_tensors(encode(small)).map(tf.io.decode_image)
    assert dataset.element_spec.shape.rank is None
    (y,) = dataset.map(preprocess_input).as_numpy_iterator()
    np.testing.assert_allclose(y, preprocess_input(small), atol=1e-6)


def test_preprocess_data_format():
    x = np.ones((2, 4, 5, 3), "uint8")
    np.testing.assert_array_equal(preprocess_input(x, "channels_last"), preprocess_input(x))
    for data_format in ("channels_first", "nhwc"):
        with pytest.raises(ValueError, match=data_format):
            preprocess_input(x, data_format)
    keras.config.set_image_data_format("channels_first")
    try:
        np.testing.assert_array_equal(preprocess_input(x, "channels_last"), preprocess_input(x))
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (8, 8, 4), (8, 8, 1)])
def test_preprocess_wrong_channels(shape):
    x = np.zeros(shape)
    for each in (x, keras.ops.convert_to_tensor(x), keras.KerasTensor(shape)):
        with pytest.raises(ValueError, match=r"RGB images of shape \(\.\.\., 3\)"):
            preprocess_input(each)


# ---------------------------------------------------------------- load_image: the transforms


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
        expected = np.array(picture.resize((384, 384), Image.Resampling.BICUBIC))
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


# ---------------------------------------------------------------- load_image: kinds of pictures


def stored_as(upright):
    """EXIF orientation -> how the rows and columns of an upright picture then lie in the file."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),  # to be turned clockwise by a quarter
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(small, orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}
    data = encode(stored_as(small)[orientation], format, exif=exif, **options.get(format, {}))
    error = difference(pixels(data, small), small)
    assert error.max() == 0 if format != "JPEG" else error.mean() < 1
    np.testing.assert_array_equal(pixels(Image.open(io.BytesIO(data)), small), pixels(data, small))


def test_exif_with_a_malformed_tag(small):
    """The unit of resolution is a text; Pillow can read this block, not write it."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 3) + struct.pack("<HHI4s", 0x0128, 2, 4, b"abc")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + entries + b"\0\0\0\0"
    data = encode(small[::-1, ::-1], exif=exif)
    np.testing.assert_array_equal(pixels(data, small), small)


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0 not exif at all"])
def test_broken_exif_is_ignored(small, exif):
    data = encode(small, exif=exif)
    np.testing.assert_array_equal(pixels(data, small), small)


def test_grey(small):
    grey = small[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=-1)
    np.testing.assert_array_equal(pixels(encode(grey), small), expected)
    np.testing.assert_array_equal(pixels(grey, small), expected)
    np.testing.assert_array_equal(pixels(grey[..., None], small), expected)


def test_one_bit(small):
    bits = small[..., 0] > 100
    data = encode(Image.fromarray(bits))
    assert Image.open(io.BytesIO(data)).mode == "1"
    np.testing.assert_array_equal(
        pixels(data, small), np.repeat(bits[..., None], 3, -1) * np.uint8(255)
    )


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm", "array", "big-endian"])
def test_grey_of_16_bits(suffix):
    """Scaled to 8 bits and rounded, not clipped at 255."""
    grey = np.arange(0, 65536, 8, "uint16").reshape(64, 128)
    grey[-1, -1] = 65535
    source = {
        "png": lambda: encode(grey),
        "tiff": lambda: encode(grey, "TIFF"),
        "pgm": lambda: b"P5 128 64 65535\n" + grey.astype(">u2").tobytes(),
        "array": lambda: grey,
        "big-endian": lambda: grey.astype(">u2"),
    }[suffix]()
    result = pixels(source, grey)
    np.testing.assert_array_equal(result[..., 0], np.rint(grey / 257))
    assert (result == result[..., :1]).all() and result.min() == 0 and result.max() == 255


def test_palette(small):
    image = Image.fromarray(small).quantize(16)
    colors = np.array(image.getpalette()).reshape(-1, 3)
    expected = colors[np.asarray(image)]
    np.testing.assert_array_equal(pixels(encode(image), small), expected)
    np.testing.assert_array_equal(pixels(encode(image, "GIF"), small), expected)
    transparent = np.asarray(image) == 3
    assert transparent.any()
    expected[transparent] = 255
    for format in ("PNG", "GIF"):
        data = encode(image, format, transparency=3)
        assert "transparency" in Image.open(io.BytesIO(data)).info
        np.testing.assert_array_equal(pixels(data, small), expected)
    # A palette with an alpha for each colour.
    alphas = np.arange(16) * 17
    data = encode(image, transparency=bytes(alphas.tolist()))
    expected = on_white(colors[np.asarray(image)], alphas[np.asarray(image)])
    assert difference(pixels(data, small), expected).max() <= 1


def test_alpha_lies_on_white(small):
    alpha = np.linspace(0, 255, 40 * 60).round().astype("uint8").reshape(40, 60)
    rgba = np.dstack([small, alpha])
    for source in (rgba, Image.fromarray(rgba), encode(rgba)):
        assert difference(pixels(source, small), on_white(small, alpha)).max() <= 1
    rgba[..., 3] = 255
    np.testing.assert_array_equal(pixels(rgba, small), small)
    rgba[..., 3] = 0
    assert (pixels(encode(rgba), small) == 255).all()

    grey = Image.merge("LA", [Image.fromarray(small[..., 0]), Image.fromarray(alpha)])
    expected = on_white(np.repeat(small[..., :1], 3, -1), alpha)
    assert difference(pixels(encode(grey), small), expected).max() <= 1


def test_transparent_color_key(small):
    small = small.copy()
    small[:5] = (1, 2, 3)
    data = encode(small, transparency=(1, 2, 3))
    expected = small.copy()
    expected[(small == (1, 2, 3)).all(-1)] = 255
    np.testing.assert_array_equal(pixels(data, small), expected)


def test_cmyk_jpeg(photos):
    """Adobe's form holds the inverted inks; read the other way round it would be a negative."""
    data = encode(Image.fromarray(photos[0]).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data and Image.open(io.BytesIO(data)).mode == "CMYK"
    assert difference(pixels(data, photos[0]), photos[0]).mean() < 3


def test_other_color_spaces(small):
    for mode in ("YCbCr", "HSV"):
        image = Image.fromarray(small).convert(mode)
        assert difference(pixels(image, small), small).mean() < 5


def test_first_frame_of_an_animation(small):
    frames = [Image.fromarray(frame).quantize(64) for frame in (small, 255 - small)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(pixels(data, small), np.array(frames[0].convert("RGB")))


def test_pil_image_is_not_changed(small):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encode(np.dstack([small, small[..., 0]]), exif=exif)))
    load_image(image)
    assert image.mode == "RGBA" and image.size == (60, 40) and image.getexif()[0x0112] == 6


# ---------------------------------------------------------------- load_image: arrays


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "uint32", "float32", "float64"])
def test_array_dtypes(small, dtype):
    array = small.astype(dtype)
    before = array.copy()
    np.testing.assert_array_equal(pixels(array, small), small)
    np.testing.assert_array_equal(array, before)


def test_float_array_is_rounded(small):
    for offset in (0.4, -0.4):
        array = np.clip(small.astype("float32") + offset, 0, 255)
        np.testing.assert_array_equal(pixels(array, small), small)


def test_array_that_is_not_contiguous(small):
    np.testing.assert_array_equal(pixels(small[::-1, ::2], small[:, ::2]), small[::-1, ::2])


def test_black_float_array():
    assert (load_image(np.zeros((5, 5, 3)), 8) == 0).all()


def with_value(value):
    array = np.full((4, 5, 3), 100.0)
    array[1, 2, 0] = value
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 8, 8), "uint8"), "channels last"),
        (np.zeros((8, 8, 2), "uint8"), "channels last"),
        (np.zeros((1, 8, 8, 3), "uint8"), "one image"),
        (np.zeros(8, "uint8"), "one image"),
        (np.zeros((0, 8, 3), "uint8"), "no pixels"),
        (np.zeros((8, 8), bool), "integers or floating"),
        (np.zeros((8, 8), complex), "integers or floating"),
        (with_value(255.5), r"\[0, 255\]"),
        (with_value(-1), r"\[0, 255\]"),
        (with_value(np.nan), r"\[0, 255\]"),
        (with_value(np.inf), r"\[0, 255\]"),
        (with_value(256).astype("int32"), r"\[0, 255\]"),
        (np.full((8, 8, 3), 0.7), "multiply them by 255"),
    ],
)
def test_bad_array(array, message):
    with pytest.raises(ImageError, match=message) as caught:
        load_image(array)
    assert f"shape {array.shape} and dtype {array.dtype}" in str(caught.value)


def test_bad_pil_image():
    with pytest.raises(ImageError, match="mode RGB: no pixels"):
        load_image(Image.new("RGB", (0, 5)))
    # 32-bit integers that are not 16-bit values: nobody knows what is white.
    with pytest.raises(ImageError, match="mode I: .*65535"):
        load_image(Image.fromarray(np.array([[0, 70000]], "int32")))
    with pytest.raises(ImageError, match="mode F: .*multiply"):
        load_image(Image.fromarray(np.full((4, 4), 0.5, "float32")))
    values = np.arange(12, dtype="float32").reshape(3, 4) * 20
    np.testing.assert_array_equal(pixels(Image.fromarray(values), values)[..., 1], values)


# ---------------------------------------------------------------- load_image: files


def test_sources_of_a_file(small, tmp_path, monkeypatch):
    path = tmp_path / "a cat, #1 ä.png"
    data = encode(small)
    path.write_bytes(data)
    with path.open("rb") as file:
        np.testing.assert_array_equal(pixels(file, small), small)
        assert not file.closed
    sources = [path, str(path), path.as_uri(), data, bytearray(data), io.BytesIO(data)]
    sources.append(path.as_uri().replace("file://", "FILE://localhost"))
    for source in sources:
        np.testing.assert_array_equal(pixels(source, small), small)
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(pixels(path.name, small), small)


def test_file_object_that_cannot_seek(small):
    class Stream(io.RawIOBase):
        def __init__(self, data):
            self.rest = io.BytesIO(data)

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.rest.readinto(buffer)

    np.testing.assert_array_equal(pixels(Stream(encode(small)), small), small)


def test_format_is_found_by_content(small, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(encode(small, "PNG"))
    np.testing.assert_array_equal(pixels(path, small), small)


def test_missing_file(tmp_path):
    path = tmp_path / "no such cat.jpg"
    for source in (path, str(path), path.as_uri()):
        with pytest.raises(FileNotFoundError, match="no such cat"):
            load_image(source)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", lambda image: b"", "empty"),
        ("cut.jpg", lambda image: encode(image, "JPEG")[:700], "truncated"),
        ("cut.png", lambda image: encode(image)[:-600], "truncated"),
        ("only the head.jpg", lambda image: encode(image, "JPEG")[:20], "not an image"),
        ("garbage.jpg", lambda image: bytes(range(256)) * 9, "not an image"),
        ("page.jpg", lambda image: b"<!DOCTYPE html><html>Not found</html>", "not an image"),
        ("garbled.png", lambda image: encode(image)[:60] + b"#" * 5000, "broken"),
        ("program.eps", lambda image: encode(image, "EPS"), "not an image"),
        ("long.png", lambda image: encode(np.zeros((1, 3000), "uint8")), "768000 x 256 pixels"),
    ],
)
def test_broken_file_is_named(small, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content(small))
    for source in (path, path.as_uri(), open(path, "rb")):
        with pytest.raises(ImageError, match=message) as caught:
            load_image(source)
        assert (source if isinstance(source, str) else str(path)) in str(caught.value)
    source.close()
    with pytest.raises(ImageError, match=message):
        load_image(path.read_bytes())


def test_broken_file_behind_a_pil_image(small, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(encode(small)[:-600])
    with Image.open(path) as image, pytest.raises(ImageError, match=r"cut\.png: .*truncated"):
        load_image(image)


def test_directory(tmp_path):
    with pytest.raises(ImageError, match="cannot be read") as caught:
        load_image(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_decompression_bomb(small, monkeypatch):
    data = encode(small)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the picture has 2400
    with pytest.raises(ImageError, match="decompression bomb"):
        load_image(data, 16)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    load_image(data, 16)


def test_file_objects_that_cannot_be_used(small, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("cat")
    with path.open() as file, pytest.raises(ImageError, match=r"text\.txt: .*text mode"):
        load_image(file)
    with pytest.raises(ImageError, match=r"text\.txt: .*closed"):
        load_image(file)


@pytest.mark.parametrize("source", [None, 3, ["cat.jpg"], ("cat.jpg",)])
def test_wrong_type_of_source(source):
    with pytest.raises(TypeError, match=type(source).__name__):
        load_image(source)


def test_without_pillow(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        load_image(small)


# ---------------------------------------------------------------- load_image: URLs


@pytest.fixture(scope="module")
def server(small):
    """A web server on this machine, with good and bad habits; yields the root of its URLs."""
    picture = encode(small)
    closing = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def start(self, length=None, status=200, **headers):
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def do_GET(self):
            if self.path == "/cat.png":
                self.start(len(picture))
                self.wfile.write(picture)
            elif self.path == "/no-length.png":
                self.start()
                self.wfile.write(picture)
            elif self.path == "/held.png":  # the connection stays open behind the picture
                self.start(len(picture))
                self.wfile.write(picture)
                closing.wait()
            elif self.path == "/moved.png":
                self.start(0, status=302, Location="/cat.png")
            elif self.path == "/to-a-file.png":
                self.start(0, status=302, Location=pathlib.Path(__file__).as_uri())
            elif self.path == "/page.png":
                self.start()
                self.wfile.write(b"<html>Please log in</html>")
            elif self.path == "/empty.png":
                self.start(0)
            elif self.path == "/cut.png":
                self.start(len(picture))
                self.wfile.write(picture[:100])
            elif self.path == "/announced.png":
                self.start(10**12)
            elif self.path == "/endless.png":
                self.start()
                try:
                    while not closing.is_set():
                        self.wfile.write(bytes(2**12))
                except OSError:
                    pass
            elif self.path == "/silent.png":
                closing.wait()
            elif self.path == "/drip.png":
                self.start(len(picture))
                try:
                    while not closing.wait(0.02):
                        self.wfile.write(b"x")
                except OSError:
                    pass
            else:
                self.send_error(404)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    closing.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("page", ["cat.png", "no-length.png", "held.png", "moved.png"])
def test_url(server, small, page):
    np.testing.assert_array_equal(pixels(f"{server}/{page}", small), small)


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("missing.png", "404 Not Found"),
        ("to-a-file.png", "302"),
        ("page.png", "not an image"),
        ("empty.png", "empty"),
        ("cut.png", r"ended after 100 of \d+ bytes"),
        ("announced.png", "larger than max_bytes=20000"),
        ("endless.png", "larger than max_bytes=20000"),
        ("silent.png", r"not complete within 0\.4 s"),
        ("drip.png", r"not complete within 0\.4 s"),
        ("a cat.png", "cannot be downloaded"),
    ],
)
def test_bad_url_is_named(server, page, message):
    url = f"{server}/{page}"
    start = time.monotonic()
    with pytest.raises(ImageError, match=message) as caught:
        load_image(url, timeout=0.4, max_bytes=20_000)
    assert url in str(caught.value)
    assert time.monotonic() - start < 5


@pytest.mark.usefixtures("no_proxy")
def test_max_bytes_is_inclusive(server, small):
    size = len(encode(small))
    load_image(f"{server}/cat.png", max_bytes=size)
    for page in ("cat.png", "no-length.png"):
        with pytest.raises(ImageError, match="larger than"):
            load_image(f"{server}/{page}", max_bytes=size - 1)


@pytest.mark.usefixtures("no_proxy")
def test_url_of_nobody():
    with http.server.HTTPServer(("127.0.0.1", 0), None) as unused:
        port = unused.server_port
    url = f"http://127.0.0.1:{port}/cat.png"
    with pytest.raises(ImageError, match="cannot be downloaded.*refused") as caught:
        load_image(url)
    assert url in str(caught.value)


@pytest.mark.parametrize(
    "url", ["ftp://example.org/cat.png", "s3://bucket/cat.png", "file://cat.png"]
)
def test_scheme_that_is_not_supported(url):
    with pytest.raises(ValueError, match="must begin with http") as caught:
        load_image(url)
    assert url in str(caught.value)


# ---------------------------------------------------------------- decode_predictions


def test_decode_has_the_form_of_keras_applications(monkeypatch):
    theirs = keras.applications.imagenet_utils.decode_predictions
    index = {str(i): list(pair) for i, pair in enumerate(zip(synsets(), labels(), strict=True))}
    # So that theirs does not download its own list, in which the names are spelt differently.
    monkeypatch.setattr(sys.modules[theirs.__module__], "CLASS_INDEX", index)
    preds = np.random.default_rng(0).normal(size=(3, 1000)).astype("float32")
    for top in (1, 5, 1000):
        assert decode_predictions(preds, top) == theirs(preds, top=top)
    assert decode_predictions(preds) == theirs(preds)


def test_decode():
    preds = np.zeros((2, 1000), "float32")
    preds[0, [281, 0, 999]] = [0.5, 0.25, 0.125]
    preds[1, [134, 517]] = [0.25, 0.75]
    result = decode_predictions(preds, top=3)
    assert result[0] == [
        ("n02123045", "tabby", 0.5),
        ("n01440764", "tench", 0.25),
        ("n15075141", "toilet tissue", 0.125),
    ]
    assert result[1][:2] == [("n03126707", "crane", 0.75), ("n02012849", "crane", 0.25)]
    assert isinstance(result, list) and isinstance(result[0], list)
    for entry in result[0]:
        assert type(entry) is tuple
        assert [type(part) for part in entry] == [str, str, float]
    json.dumps(result)
    assert decode_predictions(preds[:0]) == []


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8"])
def test_decode_ties_stay_in_label_order(dtype):
    preds = np.zeros((1, 1000), dtype)  # of unsigned integers, -0 would be the smallest
    preds[0, [700, 300]] = 2
    ids = [synset for synset, _, _ in decode_predictions(preds, top=5)[0]]
    assert ids == [synsets()[i] for i in (300, 700, 0, 1, 2)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_decode_tensor(dtype):
    preds = np.random.default_rng(0).permutation(1000).reshape(1, 1000) / 1000
    tensor = keras.ops.cast(keras.ops.convert_to_tensor(preds.astype("float32")), dtype)
    best = int(preds.argmax())
    ((synset, name, score),) = decode_predictions(tensor, top=1)[0]
    assert type(score) is float
    if dtype == "float32":
        assert (synset, name) == (synsets()[best], labels()[best])
        assert score == float(np.float32(0.999))
    else:
        assert score == 1.0


@pytest.mark.parametrize("shape", [(1000,), (1, 999), (1, 1001), (1, 1, 1000), (1000, 1)])
def test_decode_wrong_shape(shape):
    for preds in (np.zeros(shape), keras.ops.zeros(shape)):
        with pytest.raises(ValueError, match="shape=" + str(shape).replace("(", r"\(")[:-1]):
            decode_predictions(preds)


@pytest.mark.parametrize("top", [0, -1, 1001])
def test_decode_wrong_top(top):
    with pytest.raises(ValueError, match=f"top={top}"):
        decode_predictions(np.zeros((1, 1000)), top=top)


def test_decode_top_must_be_an_integer():
    with pytest.raises(TypeError):
        decode_predictions(np.zeros((1, 1000)), top=2.5)


# ---------------------------------------------------------------- labels


def test_labels_known():
    known = {
        0: ("n01440764", "tench"),
        65: ("n01751748", "sea snake"),
        134: ("n02012849", "crane"),
        207: ("n02099601", "golden retriever"),
        281: ("n02123045", "tabby"),
        285: ("n02124075", "Egyptian cat"),
        388: ("n02510455", "giant panda"),
        517: ("n03126707", "crane"),
        817: ("n04285008", "sports car"),
        999: ("n15075141", "toilet tissue"),
    }
    assert {i: (synsets()[i], labels()[i]) for i in known} == known


def test_labels_form():
    assert len(labels()) == len(synsets()) == 1000
    assert isinstance(labels(), tuple) and isinstance(synsets(), tuple)
    assert len(set(synsets())) == 1000
    assert list(synsets()) == sorted(synsets())
    assert all(len(s) == 9 and s[0] == "n" and s[1:].isdigit() for s in synsets())
    assert all(n and n == n.strip() and not set(n) & set("_,\t#") for n in labels())
    twice = {name for name in labels() if labels().count(name) > 1}
    assert twice == {"crane", "maillot"}


def test_label_file_names_its_source_and_license():
    text = (pathlib.Path(imagenet.__file__).parent / "images" / "imagenet_labels.txt").read_text(
        "utf-8"
    )
    head = "".join(line for line in text.splitlines() if line.startswith("#"))
    for word in ("timm", "Ross Wightman", "Apache License 2.0", "WordNet", "Princeton University"):
        assert word in head


# ---------------------------------------------------------------- the module


def test_module_imports_only_keras_and_numpy():
    """But for `graph`, which is TensorFlow's, and which none of the others imports."""
    names = set()
    for file in (pathlib.Path(imagenet.__file__).parent / "images").glob("*.py"):
        if file.stem == "graph":
            continue
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.split(".")[0])
                assert "graph" not in node.module
    assert names - sys.stdlib_module_names == {"keras", "keras_cvt", "numpy"}
