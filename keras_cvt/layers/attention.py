"""Convolutional projection and attention."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_cvt._validation import check_convolution, check_heads, check_projection, check_rate
from keras_cvt.architecture import conv_output_size
from keras_cvt.layers import operations
from keras_cvt.layers.common import (
    BATCH_NORM_EPSILON,
    BATCH_NORM_MOMENTUM,
    ExplicitShapes,
    at_least_float32,
    call_recomputing,
    check_map,
    flatten_map,
    padded_shape,
    serializable,
)
from keras_cvt.layers.composite import Composite
from keras_cvt.layers.initializers import fresh_initializer, serialized_initializer, torch_uniform
from keras_cvt.layers.operations import DepthwiseConvolution


@serializable
class ConvProjection(Composite):
    """Depthwise convolution, then BatchNorm: the convolutional half of a convolutional projection.

    Args:
        kernel_size: As in `ConvEmbedding`.
        strides: As in `ConvEmbedding`.
        padding: As in `ConvEmbedding`.
        deployed: whether the convolution has a bias and does BatchNorm's work as well.

    Call arguments:
        x: (batch, height, width, channels).

    Returns:
        A map of the same number of channels.

    Source: paper, section 3.2.1; official `Attention._build_projection` with method "dw_bn".
    """

    def __init__(
        self,
        kernel_size: int = 3,
        strides: int = 1,
        padding: int = 1,
        deployed: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.deployed = deployed
        self.kernel_size, self.strides, self.padding = check_convolution(
            kernel_size, strides, padding
        )
        in_half = deployed or operations.half_convolutions()
        self.conv = DepthwiseConvolution(
            self.kernel_size,
            self.strides,
            self.padding,
            use_bias=deployed,
            depthwise_initializer=torch_uniform(kernel_size**2),
            **self.sublayer(
                "conv",
                dtype=self.dtype_policy if in_half else self.dtype_policy.variable_dtype,
            ),
        )
        self.bn = None
        if not deployed:
            self.bn = keras.layers.BatchNormalization(
                momentum=BATCH_NORM_MOMENTUM, epsilon=BATCH_NORM_EPSILON, **self.sublayer("bn")
            )

    def build(self, x_shape):
        check_map(self, x_shape)
        self.conv.build(padded_shape(x_shape, self.padding))
        if self.bn is not None:
            self.bn.build(self.compute_output_shape(x_shape))

    def call(self, x, training=None):
        x = self.conv(x)
        return x if self.bn is None else self.bn(x, training=training)

    def compute_output_shape(self, x_shape):
        height, width = (
            conv_output_size(size, self.kernel_size, self.strides, self.padding)
            for size in x_shape[1:3]
        )
        return (x_shape[0], height, width, x_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "deployed": self.deployed,
        }


@serializable
class ConvProjectionAttention(ExplicitShapes, Composite):
    """Multi-head self-attention whose queries, keys and values come from convolutional projections.

    Each projection is a depthwise convolution, BatchNorm and a linear map. The class token skips
    the first two. The scores are scaled by `embed_dim ** -0.5` (not by the head's width), as the
    official code does, and the softmax is computed in float32 at least.

    Args:
        embed_dim: channels of the map.
        num_heads: number of heads; must divide `embed_dim`.
        projection: "dw_bn", or "linear" for queries, keys and values without convolution (Table 8).
            With "linear" the kernel size, strides and paddings have no effect.
        kernel_size: of the depthwise convolutions.
        strides_q: Strides of the queries' convolution.
        padding_q: Padding of the queries' convolution.
        strides_kv: Strides of the keys' and values' convolutions (Table 7).
        padding_kv: Padding of the keys' and values' convolutions.
        use_bias: whether the linear maps to queries, keys and values have a bias.
        attention_dropout: dropout rate of the attention weights.
        dropout: dropout rate of the result.
        kernel_initializer: of the linear maps; None is the official normal distribution of deviation
            0.02, "glorot_uniform" the official option `INIT: xavier`.
        deployed: whether the weights do the work of BatchNorm and of the scores' scale as well.
        recompute: whether training keeps nothing from between the convolutions and the result, most of
            all not the attention weights, and calculates it again for the gradient.

    Call arguments:
        x: map (batch, height, width, channels), of any size.
        class_token: None, or (batch, 1, channels).
        class_token_only: computes and returns the class token alone, for about the cost of its own
            row. In training the queries' BatchNorm still sees the map, so that its statistics and
            every gradient are those of the full computation.
        key_mask: None, or bool (height, width) of the keys' map: which of its places there are. With
            every second of each row and column, the result is that of a stride twice as long, but for
            the statistics of BatchNorm in training, which are those of all places. The class token is
            always there.

    Returns:
        The new map; with a class token (map, class token); with `class_token_only` the class token.

    Raises:
        ValueError: heads that do not divide `embed_dim`; a map of other channels; `class_token_only`
            without a class token; `recompute` with dropout.

    Source: paper, section 3.2; official `Attention`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        projection: str = "dw_bn",
        kernel_size: int = 3,
        strides_q: int = 1,
        padding_q: int = 1,
        strides_kv: int = 2,
        padding_kv: int = 1,
        use_bias: bool = True,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
        kernel_initializer: Any = None,
        deployed: bool = False,
        recompute: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.projection = check_projection(projection)
        self.embed_dim, self.num_heads = check_heads(embed_dim, num_heads)
        self.kernel_size = kernel_size
        self.strides_q = strides_q
        self.padding_q = padding_q
        self.strides_kv = strides_kv
        self.padding_kv = padding_kv
        self.use_bias = use_bias
        self.attention_dropout = check_rate("attention_dropout", attention_dropout)
        self.dropout = check_rate("dropout", dropout)
        self.kernel_initializer = serialized_initializer(kernel_initializer)
        self.deployed = deployed
        self.recompute = recompute
        if recompute and (attention_dropout or dropout):
            raise ValueError(
                "`recompute` needs dropout rates of 0 (but for drop path): calculated again, other "
                f"numbers would be dropped. Received rates {attention_dropout} and {dropout}."
            )
        if projection == "dw_bn":
            of_q = (kernel_size, strides_q, padding_q, deployed)
            of_kv = (kernel_size, strides_kv, padding_kv, deployed)
            self.conv_proj_q = ConvProjection(*of_q, **self.sublayer("conv_proj_q"))
            self.conv_proj_k = ConvProjection(*of_kv, **self.sublayer("conv_proj_k"))
            self.conv_proj_v = ConvProjection(*of_kv, **self.sublayer("conv_proj_v"))
        else:
            self.conv_proj_q = self.conv_proj_k = self.conv_proj_v = None
        self.proj_q, self.proj_k, self.proj_v, self.proj = (
            keras.layers.Dense(
                embed_dim,
                use_bias=use_bias or deployed or name == "proj",
                kernel_initializer=fresh_initializer(self.kernel_initializer),
                **self.sublayer(name),
            )
            for name in ("proj_q", "proj_k", "proj_v", "proj")
        )
        self.attn_drop = keras.layers.Dropout(attention_dropout, **self.sublayer("attn_drop"))
        self.proj_drop = keras.layers.Dropout(dropout, **self.sublayer("proj_drop"))

    def build(self, x_shape, class_token_shape=None):
        check_map(self, x_shape, self.embed_dim)
        for conv in (self.conv_proj_q, self.conv_proj_k, self.conv_proj_v):
            if conv is not None:
                conv.build(x_shape)
        for dense in (self.proj_q, self.proj_k, self.proj_v, self.proj):
            dense.build((None, None, self.embed_dim))

    def call(self, x, class_token=None, class_token_only=False, key_mask=None, training=None):
        q, k, v, q_map = self._tokens(x, class_token, class_token_only, training)
        if key_mask is not None:
            key_mask = ops.reshape(key_mask, (-1,))
            if class_token is not None:
                key_mask = ops.concatenate([ops.ones((1,), "bool"), key_mask])

        # One operation has no weights to drop, gains nothing for one query, and takes no mask.
        plain = class_token_only or key_mask is not None or (training and self.attention_dropout)
        kernel = "" if plain else self._kernel(x)
        queries, keys = q.shape[1], k.shape[1]
        if training and kernel not in ("", "torch"):
            # Here it costs nothing to do what the gradient would do for each of the heads.
            q, k, v = (operations.even_length(tokens) for tokens in (q, k, v))

        def attend(q, k, v):
            if kernel:
                return self._attend_at_once(kernel, q, k, v, keys, training)[:, :queries]
            return self._attend(q, k, v, key_mask, training)

        y = call_recomputing(attend, q, k, v, recompute=self.recompute and training)

        # What is taken out of a sequence of unknown length must be told its own length again.
        token_shape = (-1, 1, self.embed_dim)
        if class_token_only:
            return ops.reshape(y, token_shape)
        height, width = ops.shape(q_map)[1:3]
        if class_token is None:
            return ops.reshape(y, (-1, height, width, self.embed_dim))
        # `y[:, 1:]` has a gradient that TensorFlow computes on one core.
        samples, tokens, _ = ops.shape(y)
        new_map = ops.slice(y, (0, 1, 0), (samples, tokens - 1, self.embed_dim))
        new_map = ops.reshape(new_map, (-1, height, width, self.embed_dim))
        return new_map, ops.reshape(y[:, :1], token_shape)

    def attention_weights(self, x, class_token=None, class_token_only=False):
        """How much of each value goes into each result in inference.

        Args:
            x: As the layer itself is called with it.
            class_token: The same.
            class_token_only: The same.

        Returns:
            (batch, heads, queries, keys), float32 at least; each row sums to 1. With a class token, the
            first query and the first key are its own; the others are a map's, row by row.
        """
        q, k, _, _ = self._tokens(x, class_token, class_token_only, training=False)
        return self._weights(q, k)

    def _tokens(self, x, class_token, class_token_only, training):
        """What queries, keys and values are made of; and the queries' map, where it is computed."""
        q_map = None
        if class_token_only and class_token is None:
            raise ValueError("`class_token_only` needs a `class_token`.")
        if class_token_only and (self.conv_proj_q is None or not training):
            q = class_token
        else:
            q_map = self._convolve(self.conv_proj_q, x, training)
            q = self._join(q_map, class_token)
            if class_token_only:
                q = q[:, :1]
        k = self._join(self._convolve(self.conv_proj_k, x, training), class_token)
        v = self._join(self._convolve(self.conv_proj_v, x, training), class_token)
        return q, k, v, q_map

    def _weights(self, q, k, key_mask=None):
        # Scaling the queries, not the scores, touches fewer numbers and can't overflow float16.
        q = self.proj_q(q)
        q = self._split_heads(q if self.deployed else q * self.embed_dim**-0.5)
        scores = ops.matmul(q, ops.transpose(self._split_heads(self.proj_k(k)), (0, 1, 3, 2)))
        scores = ops.cast(scores, at_least_float32(self.compute_dtype))
        if key_mask is not None:
            scores = ops.where(key_mask, scores, -float("inf"))
        return ops.softmax(scores)

    def _attend(self, q, k, v, key_mask, training):
        weights = ops.cast(self._weights(q, k, key_mask), self.compute_dtype)
        weights = self.attn_drop(weights, training=training)
        y = ops.matmul(weights, self._split_heads(self.proj_v(v)))
        y = ops.transpose(y, (0, 2, 1, 3))
        y = ops.reshape(y, (-1, ops.shape(y)[1], self.embed_dim))
        return self.proj_drop(self.proj(y), training=training)

    def _kernel(self, x):
        width = self.embed_dim // self.num_heads
        return operations.attention_kernel(x, self.compute_dtype, width)

    def _attend_at_once(self, kernel, q, k, v, keys, training):
        heads = (self.num_heads, self.embed_dim // self.num_heads)
        q, k, v = (
            ops.reshape(proj(tokens), (-1, tokens.shape[1], *heads))
            for proj, tokens in ((self.proj_q, q), (self.proj_k, k), (self.proj_v, v))
        )
        scale = 1.0 if self.deployed else self.embed_dim**-0.5
        y = operations.attention(kernel, q, k, v, scale, keys)
        y = ops.reshape(y, (-1, q.shape[1], self.embed_dim))
        return self.proj_drop(self.proj(y), training=training)

    def _convolve(self, conv, x, training):
        return x if conv is None else conv(x, training=training)

    def _join(self, x, class_token):
        tokens = flatten_map(x)
        return tokens if class_token is None else ops.concatenate([class_token, tokens], axis=1)

    def _split_heads(self, x):
        """(N, T, C) -> (N, heads, T, C / heads)"""
        shape = (-1, ops.shape(x)[1], self.num_heads, self.embed_dim // self.num_heads)
        return ops.transpose(ops.reshape(x, shape), (0, 2, 1, 3))

    def compute_output_shape(self, x_shape, class_token_shape=None, class_token_only=False):
        if class_token_only:
            return tuple(class_token_shape)
        map_shape = tuple(x_shape)
        if self.conv_proj_q is not None:
            map_shape = self.conv_proj_q.compute_output_shape(map_shape)
        return map_shape if class_token_shape is None else (map_shape, tuple(class_token_shape))

    def compute_output_spec(
        self, x, class_token=None, class_token_only=False, key_mask=None, training=None
    ):
        token_shape = None if class_token is None else class_token.shape
        return self._spec(self.compute_output_shape(x.shape, token_shape, class_token_only))

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "num_heads": self.num_heads,
            "projection": self.projection,
            "kernel_size": self.kernel_size,
            "strides_q": self.strides_q,
            "padding_q": self.padding_q,
            "strides_kv": self.strides_kv,
            "padding_kv": self.padding_kv,
            "use_bias": self.use_bias,
            "attention_dropout": self.attention_dropout,
            "dropout": self.dropout,
            "kernel_initializer": self.kernel_initializer,
            "deployed": self.deployed,
            "recompute": self.recompute,
        }
