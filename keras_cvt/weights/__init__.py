"""Weights of a model: what is published, where it is had, and how a checkpoint fills a model."""

from typing import TYPE_CHECKING

from keras_cvt import _lazy

if TYPE_CHECKING:
    from keras_cvt.weights.downloads import DownloadError
    from keras_cvt.weights.loading import (
        Weights,
        describe,
        find,
        named_variables,
        open_weights,
    )
    from keras_cvt.weights.published import PUBLISHED, Published, names_of, table

__all__ = [
    "PUBLISHED",
    "DownloadError",
    "Published",
    "Weights",
    "describe",
    "find",
    "named_variables",
    "names_of",
    "open_weights",
    "table",
]

# The table of published weights is had without Keras.
__getattr__, __dir__ = _lazy.attach(
    __name__,
    {
        "downloads": ("DownloadError",),
        "loading": (
            "Weights",
            "describe",
            "find",
            "named_variables",
            "open_weights",
        ),
        "published": ("PUBLISHED", "Published", "names_of", "table"),
    },
)
