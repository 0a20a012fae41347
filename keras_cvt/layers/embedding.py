"""From an image or a map to the next map: embeddings and class token."""

from __future__ import annotations

import keras
from keras import ops

from keras_cvt._validation import check_convolution, check_int
from keras_cvt.architecture import conv_output_size
from keras_cvt.layers.common import (
    LAYER_NORM_EPSILON,
    check_map,
    linear_interpolation,
    pad,
    padded_shape,
    serializable,
)
from keras_cvt.layers.composite import Composite
from keras_cvt.layers.initializers import linear_initializer, torch_uniform


@serializable
class ClassToken(keras.layers.Layer):
    """One learned token, repeated for each sample of the batch.

    Call arguments:
        x: the stage's map, (batch, height, width, channels), of which only the batch size and the
            number of channels are used.

    Returns:
        (batch, 1, channels).

    Source: paper, section 3; official `VisionTransformer.cls_token`.
    """

    def build(self, x_shape):
        self.token = self.add_weight(
            name="token",
            shape=(1, 1, check_map(self, x_shape)),
            initializer=linear_initializer(),
        )

    def call(self, x):
        return ops.broadcast_to(self.token, (ops.shape(x)[0], 1, self.token.shape[-1]))

    def compute_output_shape(self, x_shape):
        return (x_shape[0], 1, x_shape[-1])

    def get_config(self):
        # Keras derives a config from the constructor's arguments only while all are plain values,
        # which a dtype policy is not.
        return super().get_config()


@serializable
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector to each place of a map (paper, Table 5).

    The embedding has one size; a map of another size gets it resized bilinearly, as the official
    loader does.

    Args:
        size: (height, width) of the embedding in tokens. None takes them from the map on which the
            layer is built, which must then be known.

    Call arguments:
        x: (batch, height, width, channels).

    Returns:
        A map of the same shape.
    """

    def __init__(self, size: tuple[int, int] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.size = None if size is None else tuple(check_int("size", s, 1) for s in size)

    def build(self, x_shape):
        channels = check_map(self, x_shape)
        if self.size is None:
            if None in x_shape[1:3]:
                raise ValueError(
                    "PositionEmbedding needs to know its height and width: give the model an "
                    "`input_shape` without None, or the embedding a `size`. Received a map of shape "
                    f"{tuple(x_shape)}."
                )
            self.size = tuple(x_shape[1:3])
        self.embedding = self.add_weight(
            name="embedding", shape=(1, *self.size, channels), initializer=linear_initializer()
        )

    def call(self, x):
        embedding = self.embedding
        if tuple(x.shape[1:3]) != self.size:
            height, width = ops.shape(x)[1:3]
            rows = self._interpolation(self.size[0], height)
            columns = self._interpolation(self.size[1], width)
            embedding = ops.einsum("ih,jw,nhwc->nijc", rows, columns, embedding)
        return x + embedding

    def _interpolation(self, old, new):
        """The matrix (new, old) that interpolates linearly between the centres of pixels.

        `keras.ops.image.resize` takes no size that is known only at run time, and gives other numbers
        under XLA.
        """
        scale = old / ops.cast(new, "float32")
        centers = (ops.cast(ops.arange(new), "float32") + 0.5) * scale - 0.5
        return ops.cast(linear_interpolation(centers, old), self.compute_dtype)

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@serializable
class ConvEmbedding(Composite):
    """Convolutional token embedding: a convolution with overlapping patches, then LayerNorm.

    A non-overlapping patch embedding (Table 6) is `kernel_size=p, strides=p, padding=0`.

    Args:
        embed_dim: channels of the new map.
        kernel_size: Integer, height and width of the patches.
        strides: Integer, for both directions.
        padding: Integer, how many zeros are added on each of the four sides.

    Call arguments:
        x: image or map, (batch, height, width, channels), of any size.

    Returns:
        (batch, floor((height + 2 padding - kernel_size) / strides) + 1, the same of width, embed_dim).

    Source: paper, section 3.1; official `ConvEmbed`.
    """

    def __init__(
        self,
        embed_dim: int,
        kernel_size: int = 7,
        strides: int = 4,
        padding: int = 2,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.embed_dim = check_int("embed_dim", embed_dim, 1)
        self.kernel_size, self.strides, self.padding = check_convolution(
            kernel_size, strides, padding
        )
        self.proj = keras.layers.Conv2D(
            self.embed_dim,
            self.kernel_size,
            strides=self.strides,
            padding="valid",
            data_format="channels_last",
            **self.sublayer("proj"),
        )
        self.norm = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON, **self.sublayer("norm")
        )

    def build(self, x_shape):
        fan_in = self.kernel_size**2 * check_map(self, x_shape)
        self.proj.kernel_initializer = torch_uniform(fan_in)
        self.proj.bias_initializer = torch_uniform(fan_in)
        output_shape = self.compute_output_shape(x_shape)
        self.proj.build(padded_shape(x_shape, self.padding))
        self.norm.build(output_shape)

    def call(self, x):
        self.compute_output_shape(x.shape)  # says what is wrong with a size that is too small
        return self.norm(self.proj(pad(x, self.padding)))

    def compute_output_shape(self, x_shape):
        height, width = (
            conv_output_size(size, self.kernel_size, self.strides, self.padding)
            for size in x_shape[1:3]
        )
        if any(size is not None and size < 1 for size in (height, width)):
            raise ValueError(
                f"{self.name} has kernels of {self.kernel_size}x{self.kernel_size} and {self.padding} "
                f"zeros on each side: its input is too small. Received shape {tuple(x_shape)}."
            )
        return (x_shape[0], height, width, self.embed_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
        }
