"""Images whose labels are those of a model, matched by the names of the classes.

    model       images      label of an image
    cat, dog    dog, cat    by name, whatever the order
    cat, dog    dog         by name: there may be fewer classes
    cat, dog    cat, cow    refused: "cow" is unknown
    none        cat, dog    by position, if there are as many classes as outputs

ImageNet-1k's classes have three names, which are the same to this module: synsets (n01440764, of which
there may be fewer than 1000), all 1000 numbers 0 to 999, and all 1000 English names in their order.
"""

from __future__ import annotations

from collections.abc import Sequence

from keras_cvt import imagenet
from keras_cvt._messages import look_alike, some
from training.config import ConfigError
from training.data import sources

IMAGENET_CLASSES = 1000


def with_labels_of(
    source: sources.Source, class_names: Sequence[str], name: str, whose: str
) -> sources.Source:
    """Returns the images with the labels that their classes have among other classes.

    Args:
        source: The images.
        class_names: The other classes, in label order. No two are alike.
        name, whose: What messages call the images, and whoever has these classes.

    Raises:
        ConfigError: If a class of the images is not among the others.
    """
    if source.class_ids == tuple(class_names):
        return source
    places = {name: label for label, name in enumerate(_synsets(class_names))}
    own = _synsets(source.class_ids)
    unknown = [
        shown for shown, name in zip(source.class_ids, own, strict=True) if name not in places
    ]
    if unknown:
        raise ConfigError(
            f"{name} has classes that {whose} does not know: {some(unknown)}. {whose} knows "
            f"{len(class_names)}: {some(class_names)}.{look_alike([*class_names, *unknown])}"
        )
    fields = sources.named(class_names)
    return source.relabelled([places[name] for name in own], **{"synsets": None, **fields})


def for_model(
    source: sources.Source,
    class_names: Sequence[str] | None,
    outputs: int,
    name: str,
    whose: str,
    advice: str,
) -> sources.Source:
    """Returns the images with the labels that their classes have in a model.

    Args:
        source: The images.
        class_names: The model's, in the order of its outputs; None: they are matched by position.
        outputs: How many classes the model has. Without names, 1000 are ImageNet's if those of the
            images are.
        name, whose: What messages call the images and the model.
        advice: What to do about a model without names if the order of the classes is not known.

    Raises:
        ConfigError: If the model does not have these classes, or their order is not known.
    """
    if class_names is not None:
        return with_labels_of(source, class_names, name, whose)
    count = len(source.class_ids)
    if outputs == IMAGENET_CLASSES and {*_synsets(source.class_ids)} <= {*imagenet.synsets()}:
        return with_labels_of(source, imagenet.synsets(), name, whose)
    if count != outputs:
        hint = ""
        if outputs == IMAGENET_CLASSES:
            hint = (
                " Some of ImageNet's classes are known by their synsets, such as n01440764, only."
            )
        raise ConfigError(f"{whose} has {outputs} outputs, but {name} has {count} classes.{hint}")
    if sorted_as_text_only(source.class_ids):
        raise ConfigError(
            f"{whose} has no class names, and the classes of {name} are numbers, which may have been "
            f"sorted as text (10 before 2) or, as before here, as numbers when it was trained. {advice}"
        )
    return source


def sorted_as_text_only(class_names: Sequence[str]) -> bool:
    """Whether names are numbers in the order of texts, which is not that of the numbers.

    Until names were kept with runs and models, folders of such names were sorted as numbers.
    """
    return (
        all(name.isdecimal() for name in class_names)
        and [*class_names] == sorted(class_names)
        and [*class_names] != sorted(class_names, key=int)
    )


def _synsets(class_names: Sequence[str]) -> Sequence[str]:
    """Names with ImageNet's synsets in the place of its other names."""
    if len(class_names) == IMAGENET_CLASSES:
        if {*class_names} == {*map(str, range(IMAGENET_CLASSES))}:
            return [imagenet.synsets()[int(name)] for name in class_names]
        if tuple(class_names) == imagenet.labels():
            return imagenet.synsets()
    return class_names
