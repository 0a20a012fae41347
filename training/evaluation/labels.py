"""Images with the labels that a model has for their classes."""

from __future__ import annotations

from keras_cvt import imagenet
from keras_cvt.weights import Published
from training.config import ConfigError
from training.data import sources
from training.evaluation.subjects import IMAGENET_CLASSES, Subject


def as_labelled_for(subject: Subject, name: str, source: sources.Source) -> sources.Source:
    """The images with the labels that the model has for their classes.

    Args:
        subject: The model.
        name: The source's name, for messages.
        source: Its classes are any classes, or some of ImageNet's synsets.

    Raises:
        ConfigError: If the model does not have these classes.
    """
    count = len(source.class_names)
    if subject.classes == IMAGENET_CLASSES and source.synsets is not None:
        places = {synset: place for place, synset in enumerate(imagenet.synsets())}
        labels = [places[synset] for synset in source.synsets]
        return source.relabelled(labels, imagenet.labels(), imagenet.synsets())
    if count != subject.classes:
        hint = ""
        if subject.classes == IMAGENET_CLASSES:
            hint = (
                " Some of ImageNet's classes are known by their synsets, such as n01440764, only."
            )
        raise ConfigError(
            f"{subject.name} has {subject.classes} outputs, but {name} has {count} classes.{hint}"
        )
    numbers = tuple(str(number) for number in range(IMAGENET_CLASSES))
    if isinstance(subject.weights, Published) and source.class_names != numbers:
        raise ConfigError(
            f"{name} must have ImageNet's classes: synsets such as n01440764, or 0 to 999. Received "
            f"{', '.join(source.class_names[:3])}, ..."
        )
    return source
