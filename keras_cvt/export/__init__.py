"""One trained classifier, every runtime: SavedModel, LiteRT, ONNX and OpenVINO.

    export.to_saved_model(model, "models/cvt13")   # for TensorFlow Serving
    export.to_litert(model, "cvt13.tflite", quantize="int8", calibration="photos/")   # for phones
    export.to_onnx(model, "cvt13.onnx")
    export.to_openvino(model, "cvt13.xml")         # for Intel's processors

Each file is run by its own runtime on a real picture, and removed if it answers otherwise than Keras.
The runtimes are `pip install "keras_cvt[export]"`. The models must run on Keras' TensorFlow backend.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cvt._files import replacing
from keras_cvt._validation import unknown_choice
from keras_cvt.export import outputs
from keras_cvt.export.formats import FORMATS, QUANTIZATIONS, ExportError

if TYPE_CHECKING:
    import keras

__all__ = [
    "FORMATS",
    "QUANTIZATIONS",
    "ExportError",
    "Exported",
    "check",
    "export",
    "to_litert",
    "to_onnx",
    "to_openvino",
    "to_saved_model",
]


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file, or the folder of the version.
        bytes: its size, with all that belongs to it.
        difference: the largest difference from Keras' probabilities on the real picture, as a share
            of the largest of them.
    """

    path: Path
    bytes: int
    difference: float


def check(
    format: str,
    path: str | os.PathLike,
    *,
    version: int | None = None,
    quantize: str = "none",
    calibration: str | os.PathLike | None = None,
    batch_size: int | None = None,
    tolerance: float | None = None,
) -> Path:
    """Refuses what can't be exported, whatever the model: before it is even loaded.

    Args: as in `export`.

    Returns:
        The path to be written: for a SavedModel that of the version.

    Raises:
        ExportError: for an unknown format, packages that are missing, options of another format, an
            output that exists.
        FileNotFoundError: if the output's or the calibration folder is not there.
    """
    if format not in FORMATS:
        raise ExportError(unknown_choice("format", format, tuple(FORMATS)))
    kind = FORMATS[format]
    missing = [name for name in kind.packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"format {format!r} needs {', '.join(missing)}, which is not installed: "
            "pip install 'keras_cvt[export]'"
        )
    import keras  # not before it is needed: it takes seconds

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"Export needs Keras on TensorFlow, here it is on {keras.backend.backend()}: set "
            "KERAS_BACKEND=tensorflow."
        )
    if quantize not in QUANTIZATIONS:
        raise ExportError(unknown_choice("quantize", quantize, tuple(QUANTIZATIONS)))
    for name, given, owner in (
        ("version", version is not None, "savedmodel"),
        ("quantize", quantize != "none", "litert"),
        ("batch_size", batch_size is not None, "litert"),
    ):
        if given and format != owner:
            raise ExportError(f"`{name}` is for the format {owner!r}, not for {format!r}.")
    if (quantize == "int8") != (calibration is not None):
        raise ExportError(
            "`calibration`, a folder of some hundred typical images, goes with quantize='int8', which "
            "needs it, and with nothing else."
        )
    if calibration is not None:
        calibration_images(calibration)
    if batch_size is not None and batch_size < 1:
        raise ExportError(f"`batch_size` must be at least 1. Received {batch_size}.")
    if tolerance is not None and not tolerance > 0:
        raise ExportError(f"`tolerance` must be above 0. Received {tolerance}.")

    return outputs.check(format, Path(path), version)


def export(
    model: keras.Model,
    format: str,
    path: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    crop: float | str | None = "official",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    any_size: bool = False,
    version: int | None = None,
    quantize: str = "none",
    calibration: str | os.PathLike | None = None,
    batch_size: int | None = None,
    tolerance: float | None = None,
) -> Exported:
    """Writes a classifier for another runtime, and verifies there that it answers as Keras does.

    Its input are images, float32 (batch, height, width, channels), preprocessed as in training; its
    output probabilities (batch, classes). A SavedModel has more, see `keras_cvt.export.saved_model`.

    Args:
        model: a classifier with one CvT in it, grey or RGB, with any head and preprocessing of its own:
            see docs/own-heads.md. If it ends in logits, a softmax is added. The file is verified
            against this model as it is.
        format: one of `FORMATS`.
        path: the file, ending in the format's suffix; for a SavedModel the folder of all versions.
        labels: the classes' names; None for those in the model, or ImageNet's if it has none and 1000
            outputs.
        image_size: pixels, one number for a square or (height, width). None: the model's, or 224 if
            it takes any.
        crop: how pictures come to that size, as in `load_image`.
        mean: Mean of each channel, of pixels divided by 255; None for ImageNet's, or for no
            normalization where the model has its own.
        std: Standard deviation of each channel, likewise.
        any_size: whether the file takes images of any height and width.
        version: of a SavedModel; None for the next one.
        quantize: of a LiteRT file: "none"; "float16" or "dynamic" (int8) weights; "int8" weights and
            activations where they bear it.
        calibration: folder of typical images, for "int8".
        batch_size: of a LiteRT file, 1 by default; other formats take any number of images.
        tolerance: the largest difference from Keras' probabilities, as a share of the largest of
            them; None for that of `QUANTIZATIONS`.

    Raises:
        ExportError: (a ValueError) for what `check` refuses, a model that does not fit the options, or
            a file that answers otherwise, which is removed.
        OSError: if files can't be read or written.
    """
    path = check(
        format,
        path,
        version=version,
        quantize=quantize,
        calibration=calibration,
        batch_size=batch_size,
        tolerance=tolerance,
    )
    from keras_cvt.export.classifier import classifier
    from keras_cvt.export.verify import verify_probabilities

    if format == "litert":
        batch_size = batch_size or 1
    exported = classifier(
        model, labels, image_size, crop, mean, std, batch_size=batch_size, any_size=any_size
    )
    tolerance = QUANTIZATIONS[quantize] if tolerance is None else tolerance
    module: Any = importlib.import_module(f"{__name__}.{FORMATS[format].module}")
    with outputs.folder_of_versions(path.parent), replacing(path, overwrite=False) as temporary:
        if format == "litert":
            images = calibration_images(calibration) if quantize == "int8" else []
            module.write(exported, temporary, quantize, images)
        else:
            module.write(exported, temporary)
        found = verify_probabilities(exported, module.load(temporary), tolerance)
        if format == "savedmodel":
            module.verify_pictures(exported, temporary)
        size = sum(map(outputs.size, temporary.parent.iterdir()))
    return Exported(path, size, found)


def to_saved_model(model: keras.Model, path: str | os.PathLike, **options: Any) -> Exported:
    """A SavedModel in the folder `path`, as the next version. Options: as in `export`."""
    return export(model, "savedmodel", path, **options)


def to_litert(model: keras.Model, path: str | os.PathLike, **options: Any) -> Exported:
    """A `.tflite` file for phones. Options: as in `export`."""
    return export(model, "litert", path, **options)


def to_onnx(model: keras.Model, path: str | os.PathLike, **options: Any) -> Exported:
    """An `.onnx` file. Options: as in `export`."""
    return export(model, "onnx", path, **options)


def to_openvino(model: keras.Model, path: str | os.PathLike, **options: Any) -> Exported:
    """An `.xml` file and, beside it, a `.bin` file for OpenVINO. Options: as in `export`."""
    return export(model, "openvino", path, **options)


def calibration_images(folder: str | os.PathLike) -> list[str]:
    """The images below a folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        ExportError: if no image is in it.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder} with images to calibrate by.")
    from keras_cvt.inference.listing import find_images

    found = find_images([folder])
    if not found.images:
        raise ExportError(f"There is no image to calibrate by in {found.empty[os.fspath(folder)]}.")
    return found.images
