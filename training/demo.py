"""Puts a trained model to use: `python -m training.demo --run-dir runs/digits`.

Exports the run's model as a SavedModel, lets a process without Keras answer the held-out images
with it, compares that with Keras' own answers, and shows what it says about a few images. Adds to
the run's folder:

    saved_model/1/    with the signatures of `keras_cvt.export.to_saved_model`
    predictions.png   a few held-out images with their answers

Exit status: 0 if all holds, 1 if something does not, 2 if there is no finished run.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_cvt import _figures
from keras_cvt._commands import WRONG_USE, Parser, command, integer
from keras_cvt._files import replacing
from keras_cvt._messages import one_line
from keras_cvt._tables import aligned
from training import startup
from training.config import ConfigError
from training.runs.folder import RunFolder

FAILED = 1

TOLERANCE = 1e-5  # of probabilities; the same operations, perhaps in another order


class DemoError(Exception):
    """Something that should hold does not. The message is one line."""


@command("training.demo", {ConfigError: WRONG_USE, DemoError: FAILED})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status."""
    parser = Parser(prog="training.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--run-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--min-top1", type=float, default=0.0, metavar="SHARE", help="fail below; 0.97 is 97 %%"
    )
    parser.add_argument(
        "--count", type=integer(1), default=16, metavar="N", help="how many images to show"
    )
    arguments = parser.parse_args(argv)
    demo(arguments.run_dir, arguments.min_top1, arguments.count)


def demo(run_dir: Path, min_top1: float, count: int) -> None:
    """Does what the module says, and prints it.

    Args:
        run_dir: folder of a finished run.
        min_top1: the least held-out accuracy, in [0, 1].
        count: how many images are shown.

    Raises:
        ConfigError: if the run is not there, or not finished.
        DemoError: if its accuracy is less, or the exported model answers otherwise.
    """
    run = RunFolder(run_dir)
    config, report = run.read_finished()
    if report["top1"] < min_top1:
        raise DemoError(f"Held-out accuracy is {report['top1']:.2%}, less than {min_top1:.2%}.")

    startup.quiet_tensorflow()
    import numpy as np

    import keras_cvt
    from keras_cvt import export
    from keras_cvt._model_files import load_model
    from training import data
    from training.data.classes import for_model

    try:
        model = load_model(run.model)
    except (ValueError, OSError) as error:
        raise ConfigError(one_line(error)) from None
    images = data.load(config)
    source = config.data.validation_source or config.data.source
    validation = for_model(
        images.validation,
        keras_cvt.class_names(model),
        model.output_shape[-1],
        source,
        str(run.model),
        "Train it anew, in another --run-dir.",
    )
    images, class_names = dataclasses.replace(images, validation=validation), validation.class_names
    held_out, labels = data.evaluation_arrays(config, images)
    with replacing(run_dir / "saved_model") as temporary:
        # The digits are normalized to -1 to 1, and have no margin to crop.
        export.to_saved_model(
            model, temporary, labels=class_names, crop=None, mean=[0.5], std=[0.5]
        )
    saved_model = run_dir / "saved_model" / "1"

    expected = model.predict(held_out, batch_size=config.optimization.batch_size, verbose=0)
    answers = answer_without_keras(saved_model, held_out)
    predicted = answers.argmax(axis=-1)
    correct = int(np.sum(predicted == labels))
    difference = largest_difference(answers, expected)
    print(
        f"A process without Keras answered {len(answers)} held-out images, {correct} of them right, "
        f"with {saved_model}.\nIts probabilities differ from Keras' by at most {difference:.1e}."
    )
    if correct != report["correct"]:
        raise DemoError(f"The report says {report['correct']} right, the exported model {correct}.")

    shown = range(min(count, len(answers)))
    rows = [("image", "label", "answer", "probability", "")]
    for i in shown:
        label, answer = (class_names[k] for k in (labels[i], predicted[i]))
        mark = "" if label == answer else "wrong"
        rows.append((str(i), label, answer, f"{answers[i].max():.1%}", mark))
    print("", *aligned(rows, right=range(4)), sep="\n")
    picture = run_dir / "predictions.png"
    draw(held_out, labels, class_names, answers, shown, picture)
    print(f"\n{saved_model}  the exported model\n{picture}  these images")


def largest_difference(answers: Any, expected: Any) -> float:
    """Of two arrays of probabilities.

    Raises:
        DemoError: if it is more than `TOLERANCE`, or no number.
    """
    difference = float(abs(answers - expected).max())
    if not difference <= TOLERANCE:
        raise DemoError(f"The exported model differs by {difference:.1e} from Keras' answers.")
    return difference


def answer_without_keras(saved_model: Path, images: Any) -> Any:
    """Answers images with a SavedModel in another process, that has TensorFlow and no Keras.

    Args:
        saved_model: folder of the model.
        images: float32 array (images, height, width, channels).

    Returns:
        Probabilities, float32 array (images, classes).

    Raises:
        DemoError: if the process fails, with what it said last.
    """
    import numpy as np

    checkout = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "images.npy"), Path(folder, "answers.npy")
        np.save(asked, images)
        process = subprocess.run(
            [sys.executable, "-m", "training.answer_without_keras", saved_model, asked, answered],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
        )
        if process.returncode != 0:
            said = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
            raise DemoError(f"A process without Keras can't use {saved_model}: {said[-1]}")
        return np.load(answered)


def draw(images: Any, labels: Any, class_names: Any, answers: Any, shown: Any, path: Path) -> None:
    """Draws held-out images with label, answer and probability into a PNG; wrong answers in red."""
    figure, places = _figures.image_grid(len(shown), (1.5, 1.9))
    for axes, i in zip(places, shown, strict=False):
        label, answer = labels[i], answers[i].argmax()
        axes.imshow(images[i], cmap="gray_r")
        axes.set_title(
            f"label {class_names[label]}\n{class_names[answer]}: {answers[i].max():.1%}",
            color="black" if label == answer else "red",
            fontsize=10,
        )
    _figures.save(figure, path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
