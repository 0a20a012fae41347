"""Images with the labels that a model has for their classes."""

from __future__ import annotations

from training.data import sources
from training.data.classes import for_model
from training.evaluation.subjects import Subject

_GIVE_LABELS = "Give the model's class names in the order of its outputs: --labels FILE."


def as_labelled_for(subject: Subject, name: str, source: sources.Source) -> sources.Source:
    """The images with the labels that the model has for their classes.

    They are matched by name; by position for a model without class names, see `training.data.classes`.

    Args:
        subject: The model.
        name: The source's name, for messages.
        source: Its classes are any classes.

    Raises:
        ConfigError: If the model does not have these classes.
    """
    return for_model(source, subject.class_names, subject.classes, name, subject.name, _GIVE_LABELS)
