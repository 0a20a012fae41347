"""What is prepared: images that are still in their files, wherever these are."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_cvt._messages import one_line
from keras_cvt.images.listing import shown
from keras_cvt.images.load import ImageError, decode
from training.data.storage import read_patiently


@dataclasses.dataclass(frozen=True)
class Part:
    """Images that are still in their files.

    Attributes:
        labels: int32 (images,).
        names: bytes (images,), by which a person finds them.
        places: int64 (images, n), whatever says where the images are, besides their names.
        read: Gives the content of an image's file, by its index.
    """

    labels: np.ndarray
    names: np.ndarray
    places: np.ndarray
    read: Callable[[int], bytes]

    def digest(self) -> str:
        """Returns a digest that differs for other images, as far as names, order and places tell."""
        digest = hashlib.sha256()
        for array in (self.labels, self.names, self.places):
            digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
        return digest.hexdigest()

    def content(self, index: int) -> bytes:
        """Reads the content of an image's file, and waits for it if need be.

        Raises:
            StorageError: If it can't be read.
        """
        return read_patiently(shown(os.fsdecode(self.names[index])), lambda: self.read(index))

    def checked(self, index: int) -> tuple[bytes, str | None]:
        """Reads the content of an image's file; and says why it can't be decoded, if so."""
        content = self.content(index)
        return content, _damage(content)


def _damage(content: bytes) -> str | None:
    """Says why training can't read an image; None if it can: if TensorFlow or Pillow decodes it."""
    if content.startswith(b"\xff\xd8"):
        # All of the file is read, but little of the image computed.
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            tf.io.decode_jpeg(content, channels=3, ratio=8)
            return None
    try:
        decode(content)
    except ImageError as error:
        return one_line(error)
    return None
