"""Where images come from. A source is one string:

    digits                 scikit-learn's handwritten digits
    folder:PATH            image files in class folders: PATH/train/CLASS/* and PATH/val/CLASS/* (or
                           valid, validation or test), or PATH/CLASS/*, which are training images
    tfds:NAME[/CONFIG]     a data set of tensorflow_datasets, in TFRecord or ArrayRecord
    tfds:PATH              one that is prepared in this folder, such as by `training.prepare`

PATH may be whatever `tf.io.gfile` reads, gs:// for one. A class's label is its place among the class
folders' names, sorted as text: 10 comes before 2, as in torchvision and Keras. So ImageNet's synsets
(n01440764, ...) have their official labels. Where images meet a model that knows its classes, they are
matched by name, see `training.data.classes`; the folders 0 to 999 of ImageNet-V2 are ImageNet's labels.

Training images are the part "train", those it is validated with the part "validation", or
"test" where there is none. A split says otherwise, in the words of tensorflow_datasets: "train[:90%]",
"train+validation", "all". Of folders and digits, a slice has its share of every class. The part
"evaluation" is that of validation, but of PATH/CLASS/* it is all.
"""

from __future__ import annotations

import os

from keras_cvt._messages import did_you_mean
from training.config import ConfigError
from training.data.sources.contents import Contents
from training.data.sources.digits import digits
from training.data.sources.folder import Folder, folder, list_folder
from training.data.sources.source import Example, RandomAccess, Source, Stream, named
from training.data.sources.splits import rest_of
from training.data.sources.tfds import find_builder, is_prepared, tfds_source


def load(source: str, part: str, split: str | None = None, data_dir: str | None = None) -> Source:
    """Finds the images of a source.

    Args:
        source: see above.
        part: "train", "validation" or "evaluation".
        split: which images the part has; None for the usual ones.
        data_dir: folder of the prepared tfds data sets; None for tfds' own.

    Returns:
        The images. None of them has been read.

    Raises:
        ConfigError: if there is no such source, or it has no such images.
    """
    kind, _, place = source.partition(":")
    if source == "digits":
        return digits(part, split)
    if kind == "folder" and place:
        return folder(place, part, split)
    if kind == "tfds" and place:
        return tfds_source(place, part, split, data_dir)
    hint = _hint(source)
    raise ConfigError(
        "A source must be tfds:NAME, tfds:NAME/CONFIG, folder:PATH or digits. Received "
        f"{source!r}.{hint}"
    )


def _hint(source: str) -> str:
    """What may be meant by something that is no source: " Did you mean ...?", or ""."""
    kind, _, place = source.partition(":")
    complete = {"digits": "digits", "folder": "folder:PATH", "tfds": "tfds:NAME"}
    if kind in complete:
        return f" Did you mean {complete[kind]}?"
    if kind in ("records", "tfrecord", "array_record", "tars"):
        return f" What training.prepare writes is tfds:{place or 'PATH'}."
    if os.path.isdir(os.path.expanduser(source)):
        kinds = "tfds" if os.path.exists(f"{source}/dataset_info.json") else "folder"
        return f" Did you mean {kinds}:{source}?"
    return did_you_mean(kind, complete) if place else did_you_mean(source, complete.values())


__all__ = [
    "Contents",
    "Example",
    "Folder",
    "RandomAccess",
    "Source",
    "Stream",
    "find_builder",
    "is_prepared",
    "list_folder",
    "load",
    "named",
    "rest_of",
]
