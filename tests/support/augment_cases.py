"""Photos to augment, and what Pillow makes of them."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks import pillow_recipe

FILL = (124, 116, 104)  # round(255 * mean)


@functools.cache
def photos() -> list[np.ndarray]:
    """scikit-learn's two photos and two of foolbox's; uint8, of different sizes."""
    from sklearn.datasets import load_sample_image

    images = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")[::2, ::2]]
    (package,) = importlib.util.find_spec("foolbox").submodule_search_locations
    folder = Path(package) / "data"
    found = sorted(folder.glob("imagenet_*.jpg"))[:2]
    return images + [np.asarray(Image.open(path).convert("RGB"))[::2, ::2] for path in found]


def over_numbers(function, count: int):
    """The results of `function` for 0 to `count`, stacked, calculated by tf.data."""
    data = tf.data.Dataset.range(count).map(function, num_parallel_calls=2).batch(count)
    return next(data.as_numpy_iterator())


def pillow(name: str, image: np.ndarray, magnitude: float, sign: float) -> np.ndarray:
    """What timm's operation of that name does with Pillow."""
    picture = Image.fromarray(image)
    return np.asarray(pillow_recipe.operation(name, picture, magnitude, sign, FILL))
