"""The recipe's augmentation with Pillow and NumPy, one image after the other, as timm does it.

`tests/training/augment` holds `training.augment` to it, `benchmarks.input` compares speeds.
Source: timm 0.3.2, `rand-m9-mstd0.5-inc1`; torchvision's `RandomResizedCrop`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing"),
    *("SolarizeIncreasing", "SolarizeAdd", "ColorIncreasing", "ContrastIncreasing"),
    *("BrightnessIncreasing", "SharpnessIncreasing", "ShearX", "ShearY"),
    *("TranslateXRel", "TranslateYRel"),
)


def batch(
    files: Sequence[Path],
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A mixed batch of these files' images, with the published options of everything.

    Returns:
        float32 (files, size, size, 3), normalized; and the share of each image in its place, that of
        its partner from the end is what is left: float32 (files,).
    """
    images = np.stack([image(file, size, mean, std, random) for file in files])
    return mix(images, random)


def image(
    file: Path,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    random: np.random.Generator,
) -> np.ndarray:
    """A training image, float32 (size, size, 3)."""
    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    top, left, height, width = crop_box(picture.height, picture.width, random)
    picture = picture.crop((left, top, left + width, top + height))
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    if random.uniform() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    fill = tuple(min(255, round(255 * value)) for value in mean)
    for name in random.choice(OPERATIONS, 2):
        if random.uniform() < 0.5:
            magnitude = float(np.clip(random.normal(9, 0.5), 0, 10))
            picture = operation(name, picture, magnitude, random.choice((1.0, -1.0)), fill)
    values = np.asarray(picture, np.float32) / np.float32(255)
    return erase((values - np.float32(mean)) / np.float32(std), random)


def crop_box(height: int, width: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random resized crop."""
    for _ in range(10):
        area = random.uniform(0.08, 1) * height * width
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if h <= height and w <= width:
            return random.integers(height - h + 1), random.integers(width - w + 1), h, w
    h, w = min(height, round(width / (3 / 4))), min(width, round(height * (4 / 3)))
    return (height - h) // 2, (width - w) // 2, h, w


def operation(
    name: str, picture: Image.Image, magnitude: float, sign: float, fill: tuple[int, ...]
) -> Image.Image:
    """What timm's operation of that name does."""
    level = magnitude / 10
    width, height = picture.size
    factor = 1 + sign * (level * 0.9)

    def affine(*matrix):
        return picture.transform(
            picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=fill
        )

    def enhance(kind):
        return kind(picture).enhance(factor)

    def posterize():
        bits = 4 - int(level * 4)
        # Newer Pillow refuses 0 bits; before, it gave a black image.
        return ImageOps.posterize(picture, bits) if bits else Image.new("RGB", picture.size)

    def solarize_add():
        table = [min(255, i + int(level * 110)) if i < 128 else i for i in range(256)]
        return picture.point(table * 3)

    results = {
        "AutoContrast": lambda: ImageOps.autocontrast(picture),
        "Equalize": lambda: ImageOps.equalize(picture),
        "Invert": lambda: ImageOps.invert(picture),
        "Rotate": lambda: picture.rotate(
            sign * level * 30, Image.Resampling.BICUBIC, fillcolor=fill
        ),
        "PosterizeIncreasing": posterize,
        "SolarizeIncreasing": lambda: ImageOps.solarize(picture, 256 - int(level * 256)),
        "SolarizeAdd": solarize_add,
        "ColorIncreasing": lambda: enhance(ImageEnhance.Color),
        "ContrastIncreasing": lambda: enhance(ImageEnhance.Contrast),
        "BrightnessIncreasing": lambda: enhance(ImageEnhance.Brightness),
        "SharpnessIncreasing": lambda: enhance(ImageEnhance.Sharpness),
        "ShearX": lambda: affine(1, sign * level * 0.3, 0, 0, 1, 0),
        "ShearY": lambda: affine(1, 0, 0, sign * level * 0.3, 1, 0),
        "TranslateXRel": lambda: affine(1, 0, sign * level * 0.45 * width, 0, 1, 0),
        "TranslateYRel": lambda: affine(1, 0, 0, 0, 1, sign * level * 0.45 * height),
    }
    return results[name]()


def erase(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Puts normal noise into a random box of a quarter of the images, in place."""
    if random.uniform() >= 0.25:
        return image
    height, width, channels = image.shape
    for _ in range(10):
        area = random.uniform(0.02, 1 / 3) * height * width
        ratio = math.exp(random.uniform(math.log(0.3), -math.log(0.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if h < height and w < width:
            top, left = random.integers(height - h + 1), random.integers(width - w + 1)
            noise = random.standard_normal((h, w, channels), np.float32)
            image[top : top + h, left : left + w] = noise
            break
    return image


def mix(images: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mixup with alpha 0.8 or cutmix with alpha 1, each with half of the probability."""
    count, height, width, _ = images.shape
    if random.uniform() < 0.5:
        keep = np.float32(random.beta(0.8, 0.8))
        images = keep * images + (1 - keep) * images[::-1]
    else:
        cut = math.sqrt(1 - random.beta(1, 1))
        sides = []
        for side in (height, width):
            half, centre = int(side * cut) // 2, random.integers(side)
            sides.append(slice(max(centre - half, 0), min(centre + half, side)))
        rows, columns = sides
        images[:, rows, columns] = images[::-1, rows, columns].copy()
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        keep = np.float32(1 - area / (height * width))
    return images, np.full(count, keep, np.float32)
