"""Puts a trained model to use: `python -m training.demo --run-dir runs/digits`.

Exports the run's model as a SavedModel, lets a process without Keras answer the validation images
with it, compares that with Keras' own answers, and shows what it says about a few images. Adds to
the run's folder:

    saved_model/1/    with the signatures of `keras_cvt.export.to_saved_model`
    predictions.png   a few validation images with their answers

Exit status: 0 if all holds, 1 if something does not, 2 if there is no finished run.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_cvt import _figures
from keras_cvt._commands import FAILED, WRONG_USE, Parser, command, integer
from keras_cvt._files import replacing
from keras_cvt._messages import one_line
from keras_cvt._tables import aligned
from training import startup
from training.answer_without_keras import receive, send
from training.config import Config, ConfigError
from training.runs.folder import RunFolder, run_folder

TOLERANCE = 1e-5  # of probabilities; the same operations, perhaps in another order


class DemoError(Exception):
    """Something that should hold does not. The message is one line."""


@command("training.demo", {ConfigError: WRONG_USE, DemoError: FAILED, OSError: FAILED})
def main(argv: Sequence[str] | None = None) -> None:
    """The command; returns its exit status."""
    parser = Parser(prog="training.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--run-dir", type=run_folder, required=True, metavar="DIR")
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
        min_top1: the least validation accuracy, in [0, 1].
        count: how many images are shown.

    Raises:
        ConfigError: if the run is not there, or not finished.
        DemoError: if its accuracy is less, or the exported model answers otherwise.
    """
    run = RunFolder(run_dir)
    config, report = run.read_finished()
    if report["top1"] < min_top1:
        raise DemoError(f"Validation accuracy is {report['top1']:.2%}, less than {min_top1:.2%}.")

    startup.quiet_tensorflow()
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
    class_names = validation.class_names
    with replacing(run_dir / "saved_model") as temporary:
        export.to_saved_model(
            model,
            temporary,
            labels=class_names,
            crop=config.data.evaluation_crop,
            mean=validation.mean,
            std=validation.std,
        )
    saved_model = run_dir / "saved_model" / "1"

    shown, correct, number, difference = [], 0, 0, 0.0
    for pixels, targets, answers in answered(config, validation, saved_model):
        expected = model.predict_on_batch(pixels)
        difference = max(difference, largest_difference(answers, expected))
        right = np.take_along_axis(targets, answers.argmax(-1)[:, np.newaxis], axis=-1)[:, 0] > 0
        correct, number = correct + int(right.sum()), number + len(right)
        rows = range(min(len(right), count - len(shown)))
        shown += [Answered(pixels[i], targets[i].argmax(), answers[i], right[i]) for i in rows]
    print(
        f"A process without Keras answered {number} validation images, {correct} of them right, "
        f"with {saved_model}.\nIts probabilities differ from Keras' by at most {difference:.1e}."
    )
    if correct != report["correct"]:
        raise DemoError(f"The report says {report['correct']} right, the exported model {correct}.")

    rows = [("image", "label", "answer", "probability", "")]
    for i, each in enumerate(shown):
        label, answer = (class_names[k] for k in (each.label, each.answer))
        mark = "" if each.right else "wrong"
        rows.append((str(i), label, answer, f"{each.probabilities.max():.1%}", mark))
    print("", *aligned(rows, right=range(4)), sep="\n")
    picture = run_dir / "predictions.png"
    draw(shown, validation, picture)
    print(f"\n{saved_model}  the exported model\n{picture}  these images")


class Answered(NamedTuple):
    """A validation image with its answer.

    Attributes:
        pixels: Normalized, float32 (height, width, channels).
        label: A right class.
        probabilities: Of each class.
        right: Whether the most probable class is right.
    """

    pixels: np.ndarray
    label: int
    probabilities: np.ndarray
    right: bool

    @property
    def answer(self) -> int:
        """The most probable class."""
        return int(self.probabilities.argmax())


def answered(
    config: Config, images: Any, saved_model: Path
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The run's validation images that count, batch by batch, with what the exported model answers.

    Args:
        config: The run's.
        images: Their source.
        saved_model: folder of the model.

    Yields:
        Images, normalized; targets, 1 for each class that is right; probabilities.

    Raises:
        ConfigError: if too many images can't be read.
        DemoError: as `answer_without_keras`.
    """
    import tensorflow as tf

    from training import data
    from training.engine.failures import as_disk_error

    damaged = data.Damaged(config.data.max_damaged)
    batches = data.evaluation_batches(config.data, images, damaged, config.optimization.batch_size)
    counting = ((p[w > 0], t[w > 0]) for p, t, w in batches.as_numpy_iterator())
    counting, again = itertools.tee((p, t) for p, t in counting if len(p))
    try:
        answers = answer_without_keras(saved_model, (pixels for pixels, _ in counting))
        for found in answers:
            yield (*next(again), found)
    except tf.errors.OpError as error:
        raise damaged.error or as_disk_error(error) or error from None


def largest_difference(answers: Any, expected: Any) -> float:
    """Of two arrays of probabilities.

    Raises:
        DemoError: if it is more than `TOLERANCE`, or no number.
    """
    difference = float(abs(answers - expected).max())
    if not difference <= TOLERANCE:
        raise DemoError(f"The exported model differs by {difference:.1e} from Keras' answers.")
    return difference


def answer_without_keras(saved_model: Path, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Answers images with a SavedModel in another process, that has TensorFlow and no Keras.

    Args:
        saved_model: folder of the model.
        batches: float32 arrays (images, height, width, channels).

    Yields:
        For each batch probabilities, float32 array (images, classes).

    Raises:
        DemoError: if the process fails, with what it said last.
    """
    checkout = str(Path(__file__).parent.parent)
    path = os.pathsep.join(filter(None, [checkout, os.environ.get("PYTHONPATH")]))
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            [sys.executable, "-m", "training.answer_without_keras", saved_model],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        ) as process,
    ):
        try:
            for batch in batches:
                with contextlib.suppress(BrokenPipeError):  # then it has ended, and says why
                    send(process.stdin, batch)
                answers = receive(process.stdout)
                if answers is None:
                    break
                yield answers
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            if process.wait() != 0:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                reason = lines[-1] if lines else f"exit status {process.returncode}"
                raise DemoError(f"A process without Keras can't use {saved_model}: {reason}")
        finally:
            process.kill()


def draw(shown: Sequence[Answered], images: Any, path: Path) -> None:
    """Draws validation images with label, answer and probability into a PNG; wrong answers in red.

    Args:
        shown: The images.
        images: Their source.
        path: Of the picture.
    """
    figure, places = _figures.image_grid(len(shown), (1.5, 1.9))
    for axes, each in zip(places, shown, strict=False):
        pixels = np.clip(each.pixels * images.std + images.mean, 0, 1)
        gray = pixels.shape[-1] == 1
        axes.imshow(pixels[..., 0] if gray else pixels, cmap="gray_r", vmin=0, vmax=1)
        label, answer = (images.class_names[k][:24] for k in (each.label, each.answer))
        axes.set_title(
            f"label {label}\n{answer}: {each.probabilities.max():.1%}",
            color="black" if each.right else "red",
            fontsize=10,
        )
    _figures.save(figure, path, dpi=100)


if __name__ == "__main__":
    sys.exit(main())
