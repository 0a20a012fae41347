"""From a model of keras_cvt to a task of KerasHub, and back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_cvt import classification, weights
from keras_cvt._files import check_new, replacing
from keras_cvt._model_files import load_model
from keras_cvt.classes import class_names
from keras_cvt.hub.backbone import CvTBackbone
from keras_cvt.hub.card import Card
from keras_cvt.hub.classifier import CvTImageClassifier
from keras_cvt.hub.preprocessing import CvTImageClassifierPreprocessor, CvTImageConverter
from keras_cvt.images.preprocessing import MEAN, STD
from keras_cvt.layers import ImagePreprocessing
from keras_cvt.structure import structure_of


def from_model(
    model: keras.Model,
    image_size: int | Sequence[int] | None = None,
    crop: float | str | None = "official",
) -> CvTImageClassifier:
    """A classifier of KerasHub that answers as a model of keras_cvt does.

    Args:
        model: A classifier of RGB images whose head stands directly on the final norm, such as `CvT13`
            makes it or `training.train` saves it. Names of classes are kept.
        image_size: Pixels to which the task resizes pictures, one number or (height, width). Defaults
            to `None`: the model's, or 224 if it takes any.
        crop: As in `keras_cvt.load_image`. Defaults to `"official"`.

    Returns:
        A `CvTImageClassifier` with copies of the weights, for images of any size.

    Raises:
        ValueError: If the model is another one.

    Example:

    ```python
    model = keras.saving.load_model("runs/pets/model.keras")
    keras_cvt.hub.from_model(model).save_to_preset("pets")
    ```
    """
    model = classification.single(model)
    structure = structure_of(model)
    head, block = structure.head, structure.stages[-1].blocks[-1]
    problem = ""
    if any(getattr(layer, "deployed", False) for _, layer in structure.parts()):
        problem = "is deployed; give the model as it was before"
    elif structure.classifier is None or head is None or head.dense is not structure.classifier:
        problem = "has another head than a Dense on the final norm"
    elif model.inputs[0].shape[-1] != 3:
        problem = f"takes images of {model.inputs[0].shape[-1]} channels, not RGB"
    options: dict[str, Any] = {"crop": crop}
    if structure.before and not problem:
        first = structure.before[0]
        if len(structure.before) > 1 or not isinstance(first, ImagePreprocessing):
            names = ", ".join(operation.name for operation in structure.before)
            problem = f"has layers before its CvT that a preset can't have: {names}"
        else:
            options = {"crop": first.crop, "mean": first.mean, "std": first.std}
            options["interpolation"] = first.interpolation
    if problem:
        raise ValueError(f"{model.name!r} can't be a classifier of KerasHub: it {problem}.")
    if image_size is None:
        image_size = tuple(side or 224 for side in classification.sides_of(model))
    elif isinstance(image_size, int):
        image_size = (image_size, image_size)
    logits = classification.gives_logits(model)
    classifier = CvTImageClassifier(
        CvTBackbone(structure.configs, activation=block.get_config()["activation"]),
        num_classes=head.dense.units,
        preprocessor=CvTImageClassifierPreprocessor(CvTImageConverter(image_size, **options)),
        activation=None if logits else _activation(model),
        class_names=class_names(model),
    )
    ours, theirs = map(weights.named_variables, (classifier, model))
    for name, variable in ours.items():
        variable.assign(keras.ops.convert_to_numpy(theirs[name]))
    return classifier


def _activation(model: keras.Model) -> str:
    function = classification.last_function(model)
    return "sigmoid" if function == "sigmoid" else "softmax"


def to_model(task: Any, include_preprocessing: bool = False) -> keras.Model:
    """A task or backbone of KerasHub as a plain model of keras_cvt, which needs no KerasHub.

    Args:
        task: A `CvTImageClassifier` or `CvTBackbone`.
        include_preprocessing: Boolean, whether the model takes pixels of any size and does what the
            task's converter does. Defaults to `False`: it takes images that `preprocess_input` has
            normalized.

    Returns:
        A functional `keras.Model` that shares the layers and weights of `task`, to be saved, exported
        or served by all that keras_cvt has.

    Raises:
        ValueError: If the converter normalizes otherwise than `preprocess_input`, and
            `include_preprocessing` is `False`; if there is no `CvTImageConverter`, and it is `True`.
    """
    preprocessor = getattr(task, "preprocessor", None)
    converter = getattr(preprocessor, "image_converter", None)
    known = isinstance(converter, CvTImageConverter)
    if include_preprocessing and not known:
        raise ValueError(f"{task.name!r} has no CvTImageConverter to be included.")
    plain = keras.Model(task.inputs[0], task.outputs[0], name=task.name)
    if not include_preprocessing:
        if known and (converter.mean, converter.std) != (MEAN, STD):
            raise ValueError(
                f"{task.name!r} normalizes images by other figures than preprocess_input, "
                f"mean={converter.mean}, std={converter.std}: include_preprocessing=True keeps them."
            )
        return plain
    inputs = keras.Input((None, None, len(converter.mean)), name="images")
    x = ImagePreprocessing(
        converter.image_size,
        converter.crop,
        converter.mean,
        converter.std,
        converter.interpolation,
        dtype="float32",
        name="preprocessing",
    )(inputs)
    return keras.Model(inputs, plain(x), name=task.name)


def is_preset(path: str | os.PathLike) -> bool:
    """Whether a path is a folder with a preset."""
    return Path(path, "config.json").is_file() and Path(path, "metadata.json").is_file()


def write_preset(source: str | os.PathLike, preset: str | os.PathLike) -> None:
    """Makes a preset of a model in a `.keras` file, with a card that says what is known of it.

    Args:
        source: A `.keras` file, or the folder of a finished run of `training.train`, of which the card
            has config and accuracy.
        preset: The folder to be written, which must not exist.

    Raises:
        FileExistsError: If `preset` exists.
        FileNotFoundError: If there is no such file.
        ValueError: If the model is none that `from_model` takes.
    """
    source, preset = Path(source), Path(preset)
    check_new(preset)
    file = source / "model.keras" if source.is_dir() else source
    run = file.parent if (file.parent / "report.json").is_file() else None
    card = Card() if run is None or file.name != "model.keras" else Card.of_run(run)
    classifier = from_model(load_model(file))
    with replacing(preset, overwrite=False) as temporary:
        classifier.save_to_preset(temporary)
        card.write(temporary)


def read_preset(preset: str | os.PathLike) -> keras.Model:
    """The model of a preset of KerasHub, as `to_model` makes it: a classifier, or else a backbone.

    Args:
        preset: Folder, published name or address, as `from_preset` takes it.

    Raises:
        ValueError: As `to_model`, and for what is no preset of a CvT.
    """
    try:
        task = CvTImageClassifier.from_preset(os.fspath(preset))
    except ValueError:
        if not is_preset(preset) or Path(preset, "task.json").is_file():
            raise
        task = CvTBackbone.from_preset(os.fspath(preset))
    return to_model(task)
