"""Images with the labels that a model has for their classes."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from keras_cvt import imagenet
from keras_cvt.weights import Published
from training.config import ConfigError
from training.data import sources
from training.evaluation.subjects import IMAGENET_CLASSES, Subject


def as_labelled_for(subject: Subject, source: str, images: sources.Images) -> sources.Images:
    """The images with the labels that the model has for their classes.

    Args:
        subject: The model.
        source: The images' name, for messages.
        images: Any classes, or some of ImageNet's synsets.

    Raises:
        ConfigError: If the model does not have these classes.
    """
    count = len(images.class_names)
    if subject.classes == IMAGENET_CLASSES and images.synsets is not None:
        places = {synset: place for place, synset in enumerate(imagenet.synsets())}
        labels = tf.constant([places[synset] for synset in images.synsets], tf.int64)

        def relabelled(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            return {**example, "labels": tf.gather(labels, example["labels"])}

        at, stream = images.at, images.stream
        return dataclasses.replace(
            images,
            class_names=imagenet.labels(),
            synsets=imagenet.synsets(),
            at=at and (lambda index: relabelled(at(index))),
            stream=stream and (lambda *share: stream(*share).map(relabelled)),
        )
    if count != subject.classes:
        hint = ""
        if subject.classes == IMAGENET_CLASSES:
            hint = (
                " Some of ImageNet's classes are known by their synsets, such as n01440764, only."
            )
        raise ConfigError(
            f"{subject.name} tells {subject.classes} classes apart, but {source} has {count}.{hint}"
        )
    numbers = tuple(str(number) for number in range(IMAGENET_CLASSES))
    if isinstance(subject.weights, Published) and images.class_names != numbers:
        raise ConfigError(
            f"{source} must have ImageNet's classes: synsets such as n01440764, or 0 to 999. Received "
            f"{', '.join(images.class_names[:3])}, ..."
        )
    return images
