"""Encoding pictures, and what `load_image` makes of them."""

import io

import numpy as np
from PIL import Image

from keras_cvt.imagenet import load_image


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
