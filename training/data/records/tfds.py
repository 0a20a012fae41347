"""Data sets that tensorflow_datasets' own builders prepare."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_cvt._messages import one_line
from training.config import ConfigError
from training.data import sources
from training.data.records.tars import TRAIN_TAR, VALIDATION_TAR
from training.data.storage import StorageError

# What the builders of tfds look for.
_TARS = {"imagenet2012": (TRAIN_TAR, VALIDATION_TAR), "imagenet2012_real": (VALIDATION_TAR,)}


def prepare_tfds(name: str, data_dir: str | None, tars: Path | None, file_format: str) -> str:
    """Runs the data set's own builder, which ends with a whole data set or none.

    Returns:
        Where the data set is, in a line.

    Raises:
        ConfigError: If there is no such data set, files are missing, or the builder fails.
    """
    builder = sources.find_builder(name, data_dir)
    if sources.is_prepared(builder):
        there = builder.info.file_format.value
        if there != file_format:
            raise ConfigError(
                f"{builder.data_path} is there already, as {there}. To have it as {file_format}, give "
                "another --data-dir, or remove that folder."
            )
        return f"{builder.data_path} is there already: nothing to do."
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if tars is None:
            wanted = ", ".join(_TARS.get(builder.name, ())) or " ".join(
                builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split()
            )
            raise ConfigError(
                f"{name} needs --tars DIR, a folder with files that you have: {wanted}"
            )
        missing = [tar for tar in _TARS.get(builder.name, ()) if not (tars / tar).is_file()]
        if missing:
            raise ConfigError(f"{tars} must have {' and '.join(missing)}.")
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(
            file_format=file_format,
            download_config=tfds.download.DownloadConfig(manual_dir=tars),
        )
    except (OSError, tf.errors.OpError) as error:  # of a server, the network, the disk
        raise StorageError(f"{name} can't be prepared: {one_line(error)}") from error
    except Exception as error:  # of a damaged tar, the builder
        raise ConfigError(f"{name} can't be prepared: {one_line(error)}") from error
    return f"{builder.data_path} is prepared: the source tfds:{name}."
