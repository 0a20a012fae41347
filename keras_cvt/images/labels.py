"""The names of the 1000 classes of ImageNet-1k."""

from __future__ import annotations

import functools
import importlib.resources
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Names the most probable ImageNet-1k classes, in the form of `keras.applications`.

    Args:
        preds: array or tensor of shape `(N, 1000)`, probabilities or logits.
        top: how many classes to name for each image, 1 to 1000.

    Returns:
        A list of N lists of `top` tuples `(synset, name, score)`, best first, such as
        `("n02123045", "tabby", 0.93)`. Equal scores stay in label order. The score is the value
        in `preds`, as a Python float.

    Raises:
        ValueError: another shape, or `top` out of range.
    """
    import keras  # here: workers that run exported files need no Keras

    preds = keras.ops.convert_to_numpy(preds)
    if preds.ndim != 2 or preds.shape[1] != 1000:
        raise ValueError(
            "decode_predictions takes a batch of predictions over the 1000 ImageNet-1k classes, "
            f"shape (N, 1000); add an axis to those of one image. Received: shape={preds.shape}"
        )
    top = operator.index(top)
    if not 1 <= top <= 1000:
        raise ValueError(f"top must be 1 to 1000. Received: top={top}")
    preds = preds.astype("float64")
    order = np.argsort(-preds, axis=1, kind="stable")[:, :top]
    return [
        [(*_classes()[i], float(scores[i])) for i in best]
        for scores, best in zip(preds, order, strict=True)
    ]


def labels() -> tuple[str, ...]:
    """Returns the 1000 English class names in label order.

    A name is the first WordNet lemma of the class's synset, and not always unique: 134 (a bird)
    and 517 (a machine) are both "crane", 638 and 639 both "maillot". `synsets()` are unique.
    """
    return tuple(name for _, name in _classes())


def synsets() -> tuple[str, ...]:
    """Returns the 1000 WordNet ids ("n01440764", ...) in label order, which is sorted order.

    These are also the names of ImageNet's class folders: label `i` is folder `synsets()[i]`.
    """
    return tuple(synset for synset, _ in _classes())


def with_ids(class_names: Sequence[str]) -> list[tuple[str, str]]:
    """The id and the readable name of each class, as predictions show them.

    Args:
        class_names: In label order.

    Returns:
        For ImageNet-1k's synsets, if all names are such, the synset and its English name; for others,
        the label's number and the name.
    """
    english = dict(_classes())
    if all(name in english for name in class_names):
        return [(name, english[name]) for name in class_names]
    return [(str(label), name) for label, name in enumerate(class_names)]


@functools.cache
def _classes() -> tuple[tuple[str, str], ...]:
    file = importlib.resources.files(__package__) / "imagenet_labels.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if not line.startswith("#"))
    return tuple((synset, name) for synset, name in pairs)
