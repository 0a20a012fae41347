"""From a row of a source to pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_cvt.images import load
from keras_cvt.images.graph_decode import Box, cut, decode
from training import startup
from training.data import storage
from training.data.sources.source import Example, Source


def read(
    source: Source,
    row: Example,
    box: Box | None = None,
    upright: bool = True,
    pillow: bool = True,
) -> Example:
    """Reads and decodes an image, or the part of it in a box.

    A file means what it means to `keras_cvt.load_image`, whichever of the two decodes it: TensorFlow,
    which is faster, or Pillow, for formats other than JPEG and PNG and for what TensorFlow refuses.

    Args:
        source: Makes an example of the row.
        row: One of the source's.
        box: Gives the box (top, left, height, width) in an upright image of some height and width.
        upright: Whether the EXIF orientation is followed.
        pillow: Whether Pillow may be called, which only this process can do. Without it, an image that
            TensorFlow does not decode can't be read.

    Returns:
        image: uint8 (height, width, channels).
        targets: float32 (classes,), 1 where a class is right.
        damaged: string (), the image's name if it can't be decoded, else "". Such an image is black and
            has no class.
        unread: string (), the name of its file if that can't be read now, else "".
    """
    decoders = [_decoder(upright, pillow), *([_by_pillow(upright)] if pillow else [])]

    def stored(row: Example) -> Example:
        example = {"unread": tf.constant(""), **source.example(row)}
        return {name: example[name] for name in ("image", "labels", "name", "unread")}

    there = _tried(row, stored)
    encoded = there.element_spec["image"].dtype == tf.string
    example = _first(
        there,
        otherwise=lambda: {
            "image": tf.constant("") if encoded else tf.zeros((1, 1, 1), tf.uint8),
            "labels": tf.zeros(0, tf.int64),
            "name": source.example(row)["name"],  # the file is not read for that
            "unread": source.example(row)["name"],
        },
    )
    found = _first(
        *(
            _tried(example, lambda e, d=decoder: _decoded(source, e, box, d))
            for decoder in decoders
        ),
        otherwise=lambda: {
            "image": tf.zeros((1, 1, source.channels), tf.uint8),
            "targets": tf.zeros((len(source.class_names),)),
            "damaged": tf.where(example["unread"] == "", example["name"], ""),
            "unread": example["unread"],
        },
    )
    return {**found, "damaged": tf.ensure_shape(found["damaged"], ())}


def read_good(
    source: Source,
    row: Example,
    box: Box | None = None,
    upright: bool = True,
    pillow: bool = True,
) -> Example:
    """Does what `read` does, but faster: an image that can't be read is an error."""
    return _decoded(source, source.example(row), box, _decoder(upright, pillow))


def read_group(
    source: Source,
    rows: tf.data.Dataset,
    prepare: Callable[[Callable[..., Example], Example], Example],
    size: int,
    drop_remainder: bool = True,
) -> tf.data.Dataset:
    """Reads and prepares the rows of a group, on all cores; files that can't be read are waited for.

    Args:
        source: Of the rows.
        rows: Those of the group.
        prepare: Makes an example of `read` or `read_good`, and a row.
        size: Of the group.
        drop_remainder: Whether nothing is made of fewer rows.

    Returns:
        A data set of one element, a dict whose fields have the shape (size, ...); of fewer rows,
        (rows, ...).
    """

    def prepared(reader: Callable[..., Example]) -> tf.data.Dataset:
        return rows.map(functools.partial(prepare, reader), startup.cores(), deterministic=True)

    # After an error, the rows behind it would make a group too: so only whole ones are taken.
    boldly = prepared(read_good).batch(size, drop_remainder=True)
    carefully = prepared(read).batch(size, drop_remainder=drop_remainder)
    # Carefully only if an image could not be read: to try each one takes half a millisecond.
    if source.rereads:
        carefully = storage.until_read(carefully)
    return boldly.ignore_errors(log_warning=False).concatenate(carefully).take(1)


# From a file and a box to the pixels in the box.
_Decoder = Callable[[tf.Tensor, Box | None], tf.Tensor]


# The only place where TensorFlow has a "try" is a data set: it has an element, or none.


def _tried(given: Example, make: Callable[[Example], Example]) -> tf.data.Dataset:
    """Gives what is made of something, or nothing if that is an error."""
    return tf.data.Dataset.from_tensors(given).map(make).ignore_errors(log_warning=False)


def _first(*tried: tf.data.Dataset, otherwise: Callable[[], Example]) -> Example:
    """Returns the first element that any of the data sets has; or, if none has one, another."""
    last = tf.data.Dataset.range(1).map(lambda _: otherwise())
    found = functools.reduce(tf.data.Dataset.concatenate, [*tried, last])
    return found.take(1).get_single_element()


def _decoded(source: Source, example: Example, box: Box | None, decoder: _Decoder) -> Example:
    image = example["image"]
    image = cut(image, box) if image.dtype == tf.uint8 else decoder(image, box)
    targets = tf.reduce_sum(tf.one_hot(example["labels"], len(source.class_names)), axis=0)
    return {
        "image": tf.ensure_shape(image, (None, None, source.channels)),
        "targets": tf.minimum(targets, 1.0),
        "damaged": tf.constant(""),
        "unread": tf.constant(""),
    }


def _decoder(upright: bool, pillow: bool) -> _Decoder:
    """Returns what decodes good files: TensorFlow and, for the formats that need it, Pillow."""

    def decoded(data: tf.Tensor, box: Box | None) -> tf.Tensor:
        otherwise = functools.partial(_by_pillow(upright), data, box) if pillow else None
        return decode(data, box=box, upright=upright, otherwise=otherwise)

    return decoded


def _by_pillow(upright: bool) -> _Decoder:
    def pixels(data: bytes) -> np.ndarray:
        try:
            return load.decode(data, upright)
        except load.ImageError:  # an exception would leave a traceback on standard error
            return np.zeros((0, 0, 3), np.uint8)

    def decoded(data: tf.Tensor, box: Box | None) -> tf.Tensor:
        image = tf.numpy_function(pixels, [data], tf.uint8, stateful=False)
        image = tf.ensure_shape(image, (None, None, 3))
        readable = tf.debugging.Assert(tf.size(image) > 0, ["Pillow can't decode the image."])
        with tf.control_dependencies([readable]):
            return cut(tf.identity(image), box)

    return decoded
