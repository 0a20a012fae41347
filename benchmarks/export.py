"""Every format and quantization, measured in one run: `python -m benchmarks.export`.

Three models: that of `python -m training.train --config digits` (--run-dir says where it is); that of
benchmarks/photos.py, trained here if need be; and CvT-13 (--cvt13-weights, else random ones: then its
answers mean nothing, but sizes and times are those of any CvT-13). Each is exported with
`keras_cvt.export`, and answers held-out images one by one in the format's own runtime.

Prints a table in Markdown: size in MB, and how many times smaller than float32 in the same format;
accuracy; how often the likeliest class is Keras'; the mean and the worst difference of a logit (of the
logarithms of the probabilities, less their mean; a probability below 1e-9 counts as that); and the
median time of one image in milliseconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import measure as shared
from training import startup


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: of its rows.
        path: a `.keras` file.
        images: float32, preprocessed.
        labels: of the images; None where the model has learned nothing.
        calibration: uint8 images.
        options: of `export`.
    """

    name: str
    path: Path
    images: np.ndarray
    labels: np.ndarray | None
    calibration: np.ndarray
    options: dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """The command; returns 0, or 2 if the digits model is not there."""
    parser = argparse.ArgumentParser(prog="benchmarks.export", description=__doc__.split("\n")[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/digits"), metavar="DIR")
    parser.add_argument("--cvt13-weights", metavar="FILE_OR_NAME")
    parser.add_argument("--photos-model", type=Path, default=Path("runs/photos/model.keras"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all")
    arguments = parser.parse_args(argv)
    if "digits" in arguments.models and not (arguments.run_dir / "model.keras").is_file():
        print(
            f"benchmarks.export: {arguments.run_dir} has no model: python -m training.train --config "
            f"digits --run-dir {arguments.run_dir}",
            file=sys.stderr,
        )
        return 2
    startup.quiet_tensorflow()
    shared.print_facts(shared.machine())
    print()
    print(
        "| model | format | quantization | MB | smaller | top-1 | agrees | logit, mean / worst | ms |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            measure(MODELS[name](arguments, Path(folder)), Path(folder))
    return 0


def digits(arguments: argparse.Namespace, folder: Path) -> Subject:
    from training import config, data

    images = data.load(config.load("digits", []))
    return Subject(
        "digits",
        arguments.run_dir / "model.keras",
        images.held_out.images,
        images.held_out.labels,
        np.rint((images.train.images[:300] + 1) * 127.5).astype(np.uint8),
        {"labels": images.class_names, "crop": None, "mean": [0.5], "std": [0.5]},
    )


def photos(arguments: argparse.Namespace, folder: Path) -> Subject:
    import keras_cvt
    from benchmarks import photos

    if not arguments.photos_model.exists():
        photos.train(arguments.photos_model)
    images, labels = photos.pieces(1000, held_out=True, seed=1)
    return Subject(
        "photos",
        arguments.photos_model,
        keras_cvt.preprocess_input(images),
        labels,
        photos.pieces(300, held_out=False, seed=2)[0],
        {"labels": [path.stem for path in photos.photos()], "crop": None},
    )


def cvt13(arguments: argparse.Namespace, folder: Path) -> Subject:
    import keras

    import keras_cvt
    from benchmarks import photos

    keras.utils.set_random_seed(0)
    path = folder / "cvt13.keras"
    keras_cvt.CvT13(weights=arguments.cvt13_weights).save(path)
    images = np.stack([keras_cvt.load_image(photo) for photo in photos.photos()])
    return Subject("CvT-13", path, keras_cvt.preprocess_input(images), None, images, {})


MODELS = {"digits": digits, "photos": photos, "cvt13": cvt13}


def measure(subject: Subject, folder: Path) -> None:
    """Prints the rows of one model."""
    import keras
    from ai_edge_litert import schema_py_generated as schema
    from PIL import Image

    from keras_cvt import export
    from keras_cvt.export import litert, onnx, openvino, saved_model

    calibration = folder / f"{subject.name}-calibration"
    calibration.mkdir()
    for i, image in enumerate(subject.calibration):
        Image.fromarray(image.squeeze()).save(calibration / f"{i:03}.png")

    model = keras.saving.load_model(subject.path, compile=False)
    expected = one_by_one(keras_run(model), subject.images)[0]
    path = folder / f"{subject.name}.keras"
    model.save(path)
    sizes = {"Keras": path.stat().st_size}
    row(subject, "Keras", "none", sizes, path.stat().st_size, keras_run(model), expected)
    for mode in ("int8", "int4"):
        quantized = keras.saving.load_model(path, compile=False)
        quantized.quantize(mode)
        quantized.save(folder / "quantized.keras")
        size = (folder / "quantized.keras").stat().st_size
        row(subject, "Keras", mode, sizes, size, keras_run(quantized), expected)

    everything = [name for name in vars(schema.BuiltinOperator) if not name.startswith("_")]
    for number, (name, format, room, quantize, operations) in enumerate(
        (
            ("SavedModel", "savedmodel", saved_model, "none", None),
            ("LiteRT", "litert", litert, "none", None),
            ("LiteRT", "litert", litert, "float16", None),
            ("LiteRT", "litert", litert, "dynamic", None),
            ("LiteRT", "litert", litert, "int8", None),
            # What the converter does by itself: not offered, because of this.
            ("LiteRT", "litert", litert, "int8", everything),
            ("ONNX", "onnx", onnx, "none", None),
            ("OpenVINO, f32", "openvino", openvino, "none", None),
        )
    ):
        options = {"calibration": calibration} if quantize == "int8" else {}
        kept = operations or litert.INT8_OPERATIONS
        path = folder / f"{subject.name}-{number}{export.FORMATS[format].suffix}"
        with mock.patch.object(litert, "INT8_OPERATIONS", kept):
            exported = export.export(
                model,
                format,
                path,
                quantize=quantize,
                tolerance=float("inf") if operations else None,
                **options,
                **subject.options,
            )
        sizes.setdefault(name, exported.bytes)
        shown = f"{quantize}, all operations" if operations else quantize
        row(subject, name, shown, sizes, exported.bytes, room.load(exported.path), expected)


def keras_run(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Keras as a runtime: the model as a compiled function."""
    import tensorflow as tf

    function = tf.function(lambda images: model(images, training=False), reduce_retracing=True)
    return lambda images: function(tf.constant(images)).numpy()


def one_by_one(
    run: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> tuple[np.ndarray, float]:
    """Probabilities of all images, and the median of the seconds that one took."""
    answers, times = [], []
    for i in range(3):  # the first are slow
        run(images[i : i + 1])
    for i in range(len(images)):
        start = time.perf_counter()
        answers.append(run(images[i : i + 1])[0])
        times.append(time.perf_counter() - start)
    return np.array(answers), statistics.median(times)


def row(subject, format, quantization, sizes, size, run, expected) -> None:
    """Measures one file and prints it."""
    answers, seconds = one_by_one(run, subject.images)
    logits = np.abs(centred_logits(answers) - centred_logits(expected))
    classes = answers.argmax(-1)
    top1 = "–" if subject.labels is None else f"{np.mean(classes == subject.labels):.1%}"
    agrees = np.mean(classes == expected.argmax(-1))
    cells = (
        *(subject.name, format, quantization, f"{size / 1e6:.2f}", f"{sizes[format] / size:.1f}×"),
        *(
            top1,
            f"{agrees:.1%}",
            f"{logits.mean():.1g} / {logits.max():.1g}",
            f"{1000 * seconds:.2f}",
        ),
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def centred_logits(probabilities: np.ndarray) -> np.ndarray:
    logits = np.log(np.maximum(probabilities, 1e-9))
    return logits - logits.mean(axis=-1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
