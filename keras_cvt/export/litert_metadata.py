"""What Android's tools read of a LiteRT file: size, normalization and labels of its images.

It is a ModelMetadata message of TensorFlow's metadata_schema.fbs, version 1.0.0. The numbers below are
the places of its fields and the values of its enumerations. The package that has the schema as Python
code is no longer maintained, and can't be installed beside today's protobuf and numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flatbuffers
import numpy as np

from keras_cvt.export.classifier import Classifier

LABELS = "labels.txt"  # the name of the file of labels within the LiteRT file

_IDENTIFIER = b"M001"
_PARSER = "1.0.0"  # the oldest one that reads this

_NORMALIZATION_OPTIONS = 1  # of ProcessUnitOptions
_FEATURE_PROPERTIES, _IMAGE_PROPERTIES = 1, 2  # of ContentProperties
_RGB, _GRAYSCALE = 1, 2  # of ColorSpaceType
_TENSOR_AXIS_LABELS = 2  # of AssociatedFileType


def metadata(model: Classifier) -> bytes:
    """The message for a classifier. A table is written after those that it points to."""
    builder = _Builder()
    subgraph = builder.table(
        {2: builder.vector([_images(builder, model)]), 3: builder.vector([_probabilities(builder)])}
    )
    message = builder.table(
        {
            0: builder.text(model.model.name),
            1: builder.text("CvT, the Convolutional vision Transformer, by keras_cvt."),
            3: builder.vector([subgraph]),
            7: builder.text(_PARSER),
        }
    )
    return builder.finished(message)


def _images(builder: _Builder, model: Classifier) -> int:
    """The input's TensorMetadata."""
    extremes = [
        [(value - mean) / std for mean, std in zip(model.mean, model.std, strict=True)]
        for value in (1, 0)
    ]
    return builder.table(
        {
            0: builder.text("images"),
            1: builder.text("An image, resized, cropped and normalized as in training."),
            3: _picture(builder, model),
            4: builder.vector([_normalization(builder, model)]),
            5: builder.table({0: builder.floats(extremes[0]), 1: builder.floats(extremes[1])}),
        }
    )


def _picture(builder: _Builder, model: Classifier) -> int:
    """The input's Content: an image of some size."""
    height, width = model.image_size
    size = builder.size(width, height)
    color = _RGB if len(model.mean) == 3 else _GRAYSCALE
    return builder.table({1: builder.table({1: size}, {0: color})}, {0: _IMAGE_PROPERTIES})


def _normalization(builder: _Builder, model: Classifier) -> int:
    """The input's ProcessUnit, for pixels from 0 to 255, as Android has them."""
    mean, std = ([255 * x for x in values] for values in (model.mean, model.std))
    options = builder.table({0: builder.floats(mean), 1: builder.floats(std)})
    return builder.table({1: options}, {0: _NORMALIZATION_OPTIONS})


def _probabilities(builder: _Builder) -> int:
    """The output's TensorMetadata, with the file of the classes' names."""
    labels = builder.table(
        {0: builder.text(LABELS), 1: builder.text("The classes' names, one on each line.")},
        {2: _TENSOR_AXIS_LABELS},
    )
    return builder.table(
        {
            0: builder.text("probabilities"),
            1: builder.text("Of the classes."),
            3: builder.table({1: builder.table({})}, {0: _FEATURE_PROPERTIES}),
            5: builder.table({0: builder.floats([1.0]), 1: builder.floats([0.0])}),
            6: builder.vector([labels]),
        }
    )


class _Builder:
    """Writes the pieces of a message. Each method returns where the piece is."""

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder()

    def table(self, offsets: Mapping[int, int], numbers: Mapping[int, int] | None = None) -> int:
        """A table, from the places of its fields: those that point to a piece, and small numbers."""
        numbers = numbers or {}
        self._builder.StartObject(1 + max([*offsets, *numbers, 0]))
        for place, offset in offsets.items():
            self._builder.PrependUOffsetTRelativeSlot(place, offset, 0)
        for place, number in numbers.items():
            self._builder.PrependUint8Slot(place, number, 0)
        return self._builder.EndObject()

    def size(self, width: int, height: int) -> int:
        """The table ImageSize."""
        self._builder.StartObject(2)
        self._builder.PrependUint32Slot(0, width, 0)
        self._builder.PrependUint32Slot(1, height, 0)
        return self._builder.EndObject()

    def vector(self, offsets: Sequence[int]) -> int:
        """A vector of pieces."""
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return self._builder.EndVector()

    def floats(self, values: Sequence[float]) -> int:
        """A vector of float32."""
        return self._builder.CreateNumpyVector(np.array(values, np.float32))

    def text(self, value: str) -> int:
        """A string."""
        return self._builder.CreateString(value)

    def finished(self, root: int) -> bytes:
        """The message whose outermost table is `root`."""
        self._builder.Finish(root, _IDENTIFIER)
        return bytes(self._builder.Output())
