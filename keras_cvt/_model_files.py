"""Whole models in `.keras` files."""

from __future__ import annotations

import os
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
        raise ValueError(f"{path} can't be loaded: {reason}") from error
