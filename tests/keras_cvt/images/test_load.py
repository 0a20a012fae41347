"""load_image: kinds of pictures, arrays and files."""

import io
import struct
import sys

import numpy as np
import pytest
from pictures import difference, encode, on_white, pixels
from PIL import Image

from keras_cvt.imagenet import ImageError, load_image


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
        (np.full((8, 8, 3), 1.02), "multiply them by 255"),  # bicubic resizing goes beyond 1
        (np.full((8, 8, 3), 200, "uint16"), "above 200; if 255 is white"),
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
    eight_bits = np.array([[0, 200]])
    for dtype in ("int32", "uint16"):
        with pytest.raises(ImageError, match="mode I.*: .*above 200; if 255 is white"):
            load_image(Image.fromarray(eight_bits.astype(dtype)))
    with pytest.raises(ImageError, match="above 200; if 255 is white"):
        load_image(encode(eight_bits.astype("int32"), "TIFF"))
    assert pixels(encode(eight_bits.astype("uint16")), eight_bits).max() == 1  # a dark PNG
    with pytest.raises(ImageError, match="mode F: .*multiply"):
        load_image(Image.fromarray(np.full((4, 4), 0.5, "float32")))
    values = np.arange(12, dtype="float32").reshape(3, 4) * 20
    np.testing.assert_array_equal(pixels(Image.fromarray(values), values)[..., 1], values)


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
        ("without its end.png", lambda image: encode(image)[:-12], "truncated"),
        ("only the head.jpg", lambda image: encode(image, "JPEG")[:20], "a damaged JPEG"),
        ("head.png", lambda image: encode(image).replace(b"IHDR", b"ihdr"), "a damaged PNG"),
        ("garbage.jpg", lambda image: bytes(range(256)) * 9, "not an image"),
        ("page.jpg", lambda image: b"<!DOCTYPE html><html>Not found</html>", "not an image"),
        (
            "garbled.png",
            lambda image: encode(image)[:60] + b"#" * 5000 + b"IEND",
            "broken data",
        ),
        ("program.eps", lambda image: encode(image, "EPS"), "not an image"),
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
