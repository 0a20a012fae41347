"""From image files to class names: `keras-cvt predict`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np

from keras_cvt import classification
from keras_cvt.classes import labels_of
from keras_cvt.images.listing import LeftOut, list_images, shown
from keras_cvt.images.load import load
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.images.transform import normalize


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        source: path or URL of the image.
        classes: (label id, label, score) of the likeliest classes, best first. None if the image
            could not be read, or the model gives no finite numbers for it.
        error: why not.
    """

    source: str
    classes: tuple[tuple[str, str, float], ...] | None = None
    error: str | None = None


@dataclasses.dataclass
class Found:
    """The images to look at.

    Attributes:
        images: Paths and URLs.
        left_out: What is in the folders and is not taken.
        empty: Folders in which nothing can be taken, and why.
    """

    images: list[str] = dataclasses.field(default_factory=list)
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)
    empty: dict[str, str] = dataclasses.field(default_factory=dict)


def find_images(sources: Iterable[str | os.PathLike]) -> Found:
    """Finds images: files and URLs as they are given, and of folders what `list_images` lists.

    A file that is not there is taken too: reading it will say so, and the others go on.
    """
    found = Found()
    for source in map(os.fspath, sources):
        if "://" in source or not os.path.isdir(source):
            found.images.append(source)
            continue
        try:
            inside, left_out = list_images(source)
        except OSError as error:
            found.empty[source] = f"{shown(source)}: the folder cannot be read: {error}"
            continue
        found.left_out.update(left_out)
        found.images += [os.path.join(source, *name.split("/")) for name in inside]
        if not inside:
            why = f": {left_out}" if left_out else ", the folder is empty"
            found.empty[source] = f"{shown(source)}: no images to read{why}"
    return found


def predict_files(
    model: keras.Model,
    sources: Sequence[str],
    preprocessing: Preprocessing | None = None,
    top: int = 5,
    batch_size: int = 8,
    labels: Sequence[tuple[str, str]] | None = None,
) -> Iterator[Prediction]:
    """Classifies images, in order, a batch at a time.

    Args:
        model: A classifier with one CvT in it, whatever stands around that, of RGB images.
        sources: paths or URLs.
        preprocessing: How a picture becomes the model's input. Defaults to None: resized to the
            model's size, or to 224 pixels, as the official evaluation does it, and normalized unless
            the model does that itself.
        top: number of classes to tell of each image.
        batch_size: images at a time.
        labels: (id, name) of each class; None for the names in the model, or those of ImageNet-1k if it
            has none and 1000 outputs.

    Yields:
        A `Prediction` for each source. A broken image is told with its error; the others go on.
    """
    if labels is None:
        labels = labels_of(model)
    if model.output_shape[-1] != len(labels):
        raise ValueError(
            f"The model has {model.output_shape[-1]} outputs, but there are {len(labels)} labels."
        )
    model = classification.with_probabilities(model)
    if preprocessing is None:
        size = tuple(side or 224 for side in model.input_shape[1:3])
        preprocessing = classification.preprocessing_for(model, size, "official")
    for start in range(0, len(sources), batch_size):
        names = sources[start : start + batch_size]
        images: dict[int, np.ndarray] = {}
        errors: dict[int, str] = {}
        for i, name in enumerate(names):
            try:
                images[i] = load(name, preprocessing)
            except (OSError, ValueError) as error:
                errors[i] = str(error)
        rows: dict[int, np.ndarray] = {}
        if images:
            batch = normalize(
                np.stack(list(images.values())), preprocessing.mean, preprocessing.std
            )
            # A last batch of its own size would be compiled anew.
            missing = min(batch_size, len(sources)) - len(batch)
            padded = np.concatenate([batch, np.zeros((missing, *batch.shape[1:]), batch.dtype)])
            scores = np.asarray(model.predict_on_batch(padded), "float64")
            rows = dict(zip(images, scores[: len(batch)], strict=True))
            for i, row in rows.items():
                if not np.isfinite(row).all():
                    errors[i] = (
                        f"{names[i]}: the model's answers are not finite, such as {row.min()}"
                    )
        for i, name in enumerate(names):
            if i in errors:
                yield Prediction(name, error=errors[i])
                continue
            best = np.argsort(-rows[i], kind="stable")[:top]
            yield Prediction(name, tuple((*labels[c], float(rows[i][c])) for c in best))
