"""From image files to class names: `keras-cvt predict`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import keras

from keras_cvt import classification
from keras_cvt.classes import labels_of
from keras_cvt.images.preprocessing import Preprocessing
from keras_cvt.inference.answers import Answer, answer_files
from keras_cvt.inference.runtimes import keras_runtime
from keras_cvt.inference.tasks import Predict


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


def predict_files(
    model: keras.Model,
    sources: Sequence[str],
    preprocessing: Preprocessing | None = None,
    top: int = 5,
    batch_size: int = 8,
    labels: Sequence[tuple[str, str]] | None = None,
    threads: int | None = None,
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
        threads: How many decode images, ahead of the model. Defaults to one for each processor, eight
            at most.

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
        size = tuple(side or 224 for side in classification.sides_of(model))
        preprocessing = classification.preprocessing_for(model, size, "official")
    # Of fewer images than a batch has, no batch is full.
    batch_size = min(batch_size, max(1, len(sources)))
    runtime, task = keras_runtime(model), Predict(preprocessing, tuple(labels), top)
    for answer in answer_files(sources, preprocessing, runtime, batch_size, threads):
        yield prediction(answer, task)


def prediction(answer: Answer, task: Predict) -> Prediction:
    """Names the likeliest classes of an answer."""
    best = task.best(answer)
    return Prediction(answer.source, None if best is None else tuple(best), answer.error)
