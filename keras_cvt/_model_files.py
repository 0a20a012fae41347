"""Whole models in `.keras` files."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import keras

from keras_cvt import checkpoints
from keras_cvt._messages import one_line


def load_model(path: str | os.PathLike[str]) -> keras.Model:
    """Loads a model with its weights, without what it was compiled with.

    The archive is checked first: Keras reads the weights without looking at their checksum.

    Args:
        path: A `.keras` file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, is damaged, or has layers that are not registered. The
            message is one line.
    """
    path = Path(path)
    try:
        with checkpoints.read(path) as found:
            if found.format != "keras-h5" or path.suffix != ".keras":
                raise ValueError(f"it is a {found.format} file, and a model is a .keras file")
        return keras.saving.load_model(path, compile=False)
    except OSError:
        raise
    except Exception as error:  # of Keras, which has many kinds for what it can't read
        reason = one_line(error).removeprefix(f"{path}: ")
        if saved := _later_keras(path):
            reason = (
                f"Keras {saved} saved it, and here is Keras {keras.__version__}. Install that one; "
                "or make the model here and, unless it is quantized, fill it with weights=FILE. "
                f"Keras says: {reason}"
            )
        raise ValueError(f"{path} can't be loaded: {reason}") from error


def _later_keras(path: Path) -> str:
    """The version of Keras that saved a model, if it is later than this one; else ""."""
    try:
        with zipfile.ZipFile(path) as archive:
            saved = json.loads(archive.read("metadata.json"))["keras_version"]
        return saved if _numbers(saved) > _numbers(keras.__version__) else ""
    except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile):
        return ""  # whatever it is, the error is not the version's


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
