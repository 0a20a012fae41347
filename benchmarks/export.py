"""Every format and quantization, measured in one run: `python -m benchmarks.export`.

Three models: that of `python -m training.train --config digits`; that of benchmarks/colour.py; both are
trained here if need be, some minutes each. And CvT-13 (--cvt13-weights, else random ones: then its
answers mean nothing, but sizes and times are those of any CvT-13). Each is exported with
`keras_cvt.export`, and answers held-out images one by one in the format's own runtime.

Prints the machine, the day and a table in Markdown: size in MB, and how many times smaller than float32
in the same format; accuracy; how often the likeliest class is Keras'; the mean and the worst difference
of a logit, as a share of the logits' standard deviation (of the logarithms of the probabilities, less
their mean; a probability below 1e-9 counts as that); and the median time of one image in milliseconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import measure as shared
from benchmarks.measure import BenchmarkError
from keras_cvt._commands import WRONG_USE, Parser, command
from keras_cvt._messages import one_line
from keras_cvt._tables import markdown
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


@command("benchmarks.export", {BenchmarkError: WRONG_USE})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status: 0 done, 2 can't be done as asked."""
    parser = Parser(prog="benchmarks.export", description=__doc__.split("\n")[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/digits"), metavar="DIR")
    parser.add_argument(
        "--colour-model", type=Path, default=Path("runs/colour/model.keras"), metavar="FILE"
    )
    parser.add_argument("--cvt13-weights", metavar="FILE_OR_NAME")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all")
    arguments = parser.parse_args(argv)
    startup.quiet_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(arguments, Path(folder))
        except (ValueError, OSError, ImportError) as error:
            raise BenchmarkError(one_line(error)) from None
        subjects = [MODELS[name](arguments, Path(folder)) for name in arguments.models]
        shared.print_facts(shared.machine())
        head = (
            "model",
            "format",
            "quantization",
            "MB",
            "smaller",
            "top-1",
            "agrees",
            "logits",
            "ms",
        )
        print("", *markdown([head]), sep="\n")
        for subject in subjects:
            measure(subject, Path(folder))


def check(arguments: argparse.Namespace, folder: Path) -> None:
    """Finds what is missing before the first model is trained.

    Raises:
        ValueError, OSError, ImportError: that name it.
    """
    from benchmarks import colour
    from keras_cvt import export, weights

    for format in export.FORMATS:
        export.check(format, folder / f"file{export.FORMATS[format].suffix}")
    if set(arguments.models) != {"digits"}:
        colour.photos()
    if arguments.cvt13_weights is not None:
        source = weights.find(arguments.cvt13_weights, "CvT13")
        if isinstance(source, Path) and not source.is_file():
            raise FileNotFoundError(f"There is no file {source} of CvT-13's weights.")


def digits(arguments: argparse.Namespace, folder: Path) -> Subject:
    from training import config, data

    path = arguments.run_dir / "model.keras"
    if not path.exists():
        command = ["training.train", "--config", "digits", "--run-dir", arguments.run_dir]
        subprocess.run([sys.executable, "-m", *command], check=True)
    chosen = config.load("digits", [])
    images = data.load(chosen)
    held_out, labels = data.evaluation_arrays(chosen, images)
    learned, _ = data.evaluation_arrays(
        chosen, dataclasses.replace(images, validation=images.train)
    )
    return Subject(
        "digits",
        path,
        held_out,
        labels,
        np.rint((learned[:300] + 1) * 127.5).astype(np.uint8),
        {"labels": images.class_names, "crop": None, "mean": images.mean, "std": images.std},
    )


def colour_digits(arguments: argparse.Namespace, folder: Path) -> Subject:
    import keras_cvt
    from benchmarks import colour

    if not arguments.colour_model.exists():
        colour.train(arguments.colour_model)
    images, labels = colour.draw(1000, held_out=True, seed=1)
    return Subject(
        "colour",
        arguments.colour_model,
        keras_cvt.preprocess_input(images),
        labels,
        colour.draw(300, held_out=False, seed=2)[0],
        {"labels": list("0123456789"), "crop": None},
    )


def cvt13(arguments: argparse.Namespace, folder: Path) -> Subject:
    import keras

    import keras_cvt
    from benchmarks import colour

    keras.utils.set_random_seed(0)
    path = folder / "cvt13.keras"
    keras_cvt.CvT13(weights=arguments.cvt13_weights).save(path)
    images, parts = (
        np.stack([keras_cvt.load_image(photo, crop=crop) for photo in colour.photos()])
        for crop in (0.875, 0.5)
    )
    # Calibration is slow, and random weights do not deserve all.
    return Subject("CvT-13", path, keras_cvt.preprocess_input(images), None, parts[::2], {})


MODELS = {"digits": digits, "colour": colour_digits, "cvt13": cvt13}


def measure(subject: Subject, folder: Path) -> None:
    """Prints the rows of one model."""
    from ai_edge_litert import schema_py_generated as schema
    from PIL import Image

    from keras_cvt import export
    from keras_cvt._model_files import load_model
    from keras_cvt.export import litert, onnx, openvino, saved_model

    calibration = folder / f"{subject.name}-calibration"
    calibration.mkdir()
    for i, image in enumerate(subject.calibration):
        Image.fromarray(image.squeeze()).save(calibration / f"{i:03}.png")

    model = load_model(subject.path)
    expected = keras_run(model)(subject.images)
    path = folder / f"{subject.name}.keras"
    model.save(path)
    sizes = {"Keras": path.stat().st_size}
    row(subject, "Keras", "none", sizes, path.stat().st_size, keras_run(model), expected)
    for mode in ("int8", "int4"):
        quantized = load_model(path)
        quantized.quantize(mode)
        quantized.save(folder / "quantized.keras")
        size = (folder / "quantized.keras").stat().st_size
        row(subject, "Keras", mode, sizes, size, keras_run(quantized), expected)

    everything = tuple(name for name in vars(schema.BuiltinOperator) if not name.startswith("_"))
    written: dict[tuple, export.Exported] = {}
    bfloat16 = functools.partial(openvino.load, precision="bf16")
    for number, (name, format, load, quantize, operations) in enumerate(
        (
            ("SavedModel", "savedmodel", saved_model.load, "none", None),
            ("LiteRT", "litert", litert.load, "none", None),
            ("LiteRT", "litert", litert.load, "float16", None),
            ("LiteRT", "litert", litert.load, "dynamic", None),
            ("LiteRT", "litert", litert.load, "int8", None),
            # What the converter does by itself: not offered, because of what it does to accuracy.
            ("LiteRT", "litert", litert.load, "int8", everything),
            ("ONNX", "onnx", onnx.load, "none", None),
            ("OpenVINO, f32", "openvino", openvino.load, "none", None),
            ("OpenVINO, bf16", "openvino", bfloat16, "none", None),
        )
    ):
        if operations and subject.labels is None:
            continue
        options = {"calibration": calibration} if quantize == "int8" else {}
        kept = operations or litert.INT8_OPERATIONS
        if (format, quantize, kept) not in written:
            path = folder / f"{subject.name}-{number}{export.FORMATS[format].suffix}"
            with mock.patch.object(litert, "INT8_OPERATIONS", kept):
                written[format, quantize, kept] = export.export(
                    model,
                    format,
                    path,
                    quantize=quantize,
                    tolerance=float("inf") if operations else None,
                    **options,
                    **subject.options,
                )
        exported = written[format, quantize, kept]
        sizes.setdefault(name, exported.bytes)
        shown = f"{quantize}, all operations" if operations else quantize
        row(subject, name, shown, sizes, exported.bytes, load(exported.path), expected)


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


def row(
    subject: Subject,
    format: str,
    quantization: str,
    sizes: dict[str, int],
    size: int,
    run: Callable[[np.ndarray], np.ndarray],
    expected: np.ndarray,
) -> None:
    """Measures one file and prints it."""
    answers, seconds = one_by_one(run, subject.images)
    logits = centred_logits(expected)
    differences = np.abs(centred_logits(answers) - logits) / logits.std()
    classes = answers.argmax(-1)
    top1 = "–" if subject.labels is None else f"{np.mean(classes == subject.labels):.1%}"
    cells = (
        *(subject.name, format, quantization, f"{size / 1e6:.2f}", f"{sizes[format] / size:.2f}×"),
        *(top1, f"{np.mean(classes == expected.argmax(-1)):.1%}"),
        f"{percent(differences.mean())} / {percent(differences.max())}",
        f"{1000 * seconds:.2f}",
    )
    print(f"| {' | '.join(cells)} |", flush=True)


def percent(share: float) -> str:
    """With two digits; less than a hundred-thousandth is rounding."""
    return "0" if share < 1e-5 else f"{float(f'{100 * share:.2g}'):g}%"


def centred_logits(probabilities: np.ndarray) -> np.ndarray:
    logits = np.log(np.maximum(probabilities, 1e-9))
    return logits - logits.mean(axis=-1, keepdims=True)


if __name__ == "__main__":
    sys.exit(main())
