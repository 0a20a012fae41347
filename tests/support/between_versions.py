"""Files that one version of Keras writes and another reads, for `make test-between`.

python between_versions.py write FOLDER    models, weights, and a run that was stopped on its way
python between_versions.py read FOLDER     loads them elsewhere, compares, and ends the run
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import programs
from small_models import tiny
from tiny_runs import TINY

from keras_cvt import conversion
from keras_cvt._model_files import load_model

MODELS = {
    "plain": {},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "backbone": {"include_top": False, "pooling": "token"},
}
QUANTIZED = ("int8", "int4")  # the latter came with Keras 3.11
TRAIN = ["-m", "training.train", "--config", "digits", *programs.settings(*TINY)]


def images() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(2, 48, 48, 3)).astype("float32")


def answers(model: keras.Model) -> np.ndarray:
    return keras.ops.convert_to_numpy(keras.ops.cast(model(images()), "float32"))


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
    made = {name: tiny(**options) for name, options in MODELS.items()}
    made["frozen"] = tiny()
    made["frozen"].layers[1].trainable = False
    for name in QUANTIZED:
        if name == "int4" and _version() < (3, 11):
            continue
        made[name] = tiny()
        with warnings.catch_warnings(action="ignore"):  # of each layer that has nothing to quantize
            made[name].quantize(name)
    for name, model in made.items():
        model.save(folder / f"{name}.keras")
        np.save(folder / f"{name}.npy", answers(model))
    made["plain"].save_weights(folder / "plain.weights.h5")
    conversion.convert(folder / "plain.keras", folder / "plain.safetensors")
    said = programs.run(*TRAIN, "--set", "max_steps=3", "--run-dir", folder / "run")
    assert "Stopped at step 3" in said, said


def read(folder: Path) -> int:
    """Says of each file how it was read. Returns how many could not be."""
    failed = 0
    for path in sorted(folder.glob("*.npy")):
        failed += not _same(f"{path.stem}.keras", path, lambda path=path: _loaded(path))
    for suffix in (".keras", ".weights.h5", ".safetensors"):
        file = folder / f"plain{suffix}"
        failed += not _same(
            f"weights={file.name}", folder / "plain.npy", lambda file=file: tiny(weights=file)
        )
    said = programs.run(*TRAIN, "--run-dir", folder / "run")
    assert "Going on after step 3." in said, said
    report = json.loads((folder / "run" / "report.json").read_text(encoding="utf-8"))
    print(f"run: went on after step 3 to step {report['steps']}, top-1 {report['top1']:.2%}")
    return failed


def _loaded(answers_path: Path) -> keras.Model:
    return load_model(answers_path.with_suffix(".keras"))


def _same(name: str, expected: Path, load: Callable[[], keras.Model]) -> bool:
    """Says whether a model is what was written, or is refused as a later version's."""
    said = "as it was written"
    try:
        # Quantized layers round activations: a last bit that differs may change a step of 1 / 127.
        np.testing.assert_allclose(answers(load()), np.load(expected), rtol=1e-3, atol=2e-3)
    except ValueError as error:
        said = f"refused, {str(error).partition(' Keras says')[0]}"
        if " saved it, and here is Keras " not in said:
            raise
    except AssertionError as error:
        said = f"FAILED, {error}"
    print(f"{name}: {said}")
    return not said.startswith("FAILED")


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in keras.__version__.split(".")[:2])


if __name__ == "__main__":
    command, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    print(f"{command} {folder.name} with Keras {keras.__version__}")
    sys.exit({"write": write, "read": read}[command](folder))
