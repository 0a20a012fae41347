"""What the layers share: constants, shapes of maps, recomputation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

LAYER_NORM_EPSILON = 1e-5

BATCH_NORM_EPSILON = 1e-5

BATCH_NORM_MOMENTUM = 0.9  # torch calls the same thing momentum 0.1

Shape = tuple[int | None, ...]

serializable = keras.saving.register_keras_serializable(package="keras_cvt")


def check_map(layer: keras.Layer, shape: Shape, channels: int | None = None) -> int:
    """Returns the channels of a map's shape, which must be (batch, height, width, channels)."""
    if len(shape) != 4 or shape[-1] is None or shape[-1] != (channels or shape[-1]):
        raise ValueError(
            f"{type(layer).__name__} takes maps of shape (batch, height, width, "
            f"{channels or 'channels, which must be known'}). Received shape {tuple(shape)}."
        )
    return shape[-1]


def pad(x: Any, padding: int) -> Any:
    """As many zeros on each side: torch's padding, which "same" is not for strides above 1."""
    if padding == 0:
        return x
    return ops.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]])


def padded_shape(shape: Shape, padding: int) -> Shape:
    batch, *size, channels = shape
    return (batch, *(None if s is None else s + 2 * padding for s in size), channels)


def at_least_float32(dtype: str) -> str:
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def linear_interpolation(points: Any, size: int) -> Any:
    """The matrix (points, size) that interpolates `size` values, which lie at 0, 1, 2 ..., at points.

    A point beyond the first or the last value gets that value. `points` is a float32 vector.
    """
    points = ops.clip(points, 0, size - 1)[:, None]
    distances = ops.abs(points - ops.cast(ops.arange(size), "float32"))
    return ops.maximum(1 - distances, 0)


def flatten_map(x: Any) -> Any:
    """(N, H, W, C) -> (N, H * W, C), whatever of H and W is known."""
    _, height, width, channels = ops.shape(x)
    return ops.reshape(x, (-1, height * width, channels))


def call_recomputing(function: Callable, *tensors: Any, recompute: bool) -> Any:
    """`function(*tensors)`; with `recompute`, nothing that it calculates on the way is kept for its
    gradient, which calculates it again. So it must neither draw random numbers nor assign a weight."""
    return keras.remat(function)(*tensors) if recompute else function(*tensors)


class ExplicitShapes(keras.layers.Layer):
    """A layer that says what it returns through `compute_output_shape` even where that depends on a
    call argument that is no tensor, which Keras' own `compute_output_spec` leaves out."""

    def _spec(self, shapes: Any) -> Any:
        if shapes and isinstance(shapes[0], tuple):
            return tuple(self._spec(shape) for shape in shapes)
        return keras.KerasTensor(shapes, dtype=self.compute_dtype)
