"""Small classifiers and pictures to evaluate them on, and what the figures must be."""

from __future__ import annotations

import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_cvt
from keras_cvt import imagenet
from training import evaluate

SIZE = 32
STAGES = [
    keras_cvt.StageConfig(embed_dim=8, depth=1, num_heads=1, patch_size=7, patch_stride=4),
    keras_cvt.StageConfig(embed_dim=16, depth=1, num_heads=2, class_token=True),
]
NUMBERS = [*map(str, range(12))]
SYNSETS = ("n01440764", "n02123045", "n07753592", "n15075141")


def cvt(classes, channels=3, **options):
    """With answers that differ much from image to image, which those of a new CvT do not."""
    keras.utils.set_random_seed(classes)
    shape = (SIZE, SIZE, channels)
    model = keras_cvt.CvT(STAGES, weights=None, classes=classes, input_shape=shape, **options)
    head = model.get_layer("head")
    kernel, bias = head.get_weights()
    random = np.random.default_rng(0)
    head.set_weights([random.normal(0, 1, kernel.shape), random.normal(0, 0.3, bias.shape)])
    return model


def write_images(folder, classes, each=2, size=SIZE):
    """Class folders of JPEG files, all different."""
    random = np.random.default_rng(1)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
            picture = Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)
            picture.save(folder / name / f"{number}.jpg", quality=95)
    return folder


def answers(path, files, cut=0, prepare=imagenet.preprocess_input):
    """Probabilities (files, classes), by Keras alone."""
    files = [tf.io.read_file(str(file)) for file in files]
    pixels = np.stack(
        [tf.io.decode_jpeg(file, dct_method="INTEGER_ACCURATE").numpy() for file in files]
    )
    pixels = pixels[:, cut : cut + SIZE, cut : cut + SIZE]
    model = keras.saving.load_model(path, compile=False)
    return model.predict(prepare(pixels), verbose=0)


def expected(probabilities, labels):
    """top1, top5 and loss, where `labels` has a list of right classes for each image."""
    order = np.argsort(-probabilities, axis=1)
    top1 = [row[0] in right for row, right in zip(order, labels, strict=True)]
    top5 = [bool({*row[:5]} & {*right}) for row, right in zip(order, labels, strict=True)]
    losses = [-np.log(p[right]).mean() for p, right in zip(probabilities, labels, strict=True)]
    return {"top1": np.mean(top1), "top5": np.mean(top5), "loss": np.mean(losses)}


def run(*arguments, output):
    """The report of the command, which must succeed."""
    arguments = [*map(str, arguments), "--precision", "float32", "--output", str(output)]
    arguments = ["--batch-size", "8", *arguments]
    assert evaluate.main(arguments) == 0
    return json.loads(output.read_text())


def check(report, figures):
    assert (report["top1"], report["top5"]) == (figures["top1"], figures["top5"])
    assert report["loss"] == pytest.approx(figures["loss"], rel=1e-5)


def listed(folder):
    """Files and labels, in label order, which of `NUMBERS` is not that of the folder."""
    names = sorted(os.listdir(folder), key=lambda name: (len(name), name))
    files = [file for name in names for file in sorted((folder / name).iterdir())]
    return files, [[names.index(file.parent.name)] for file in files]
