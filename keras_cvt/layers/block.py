"""The transformer block and its MLP."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_cvt._validation import check_block, check_int, check_rate
from keras_cvt.layers.activations import get_activation, quick_gelu
from keras_cvt.layers.attention import ConvProjectionAttention
from keras_cvt.layers.common import (
    LAYER_NORM_EPSILON,
    ExplicitShapes,
    call_recomputing,
    serializable,
)
from keras_cvt.layers.composite import Composite
from keras_cvt.layers.drop_path import DropPath
from keras_cvt.layers.initializers import fresh_initializer, serialized_initializer


@serializable
class MLP(Composite):
    """Two linear maps with an activation between them, on the last axis.

    Args:
        hidden_dim: width between the two.
        activation: "quick_gelu", or whatever `keras.activations.get` takes.
        dropout: dropout rate after each of the two.
        kernel_initializer: as in `ConvProjectionAttention`.

    Call arguments:
        x: (..., channels).
        hidden_mask: None, or bool (hidden_dim,): which hidden units there are. Without the others, the
            result is that of a narrower MLP.

    Returns:
        A tensor of the shape of `x`.

    Source: official `Mlp`.
    """

    def __init__(
        self,
        hidden_dim: int,
        activation: Any = "quick_gelu",
        dropout: float = 0.0,
        kernel_initializer: Any = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = check_int("hidden_dim", hidden_dim, 1)
        self.activation = get_activation(activation)
        self.dropout = check_rate("dropout", dropout)
        self.kernel_initializer = serialized_initializer(kernel_initializer)
        self.drop = keras.layers.Dropout(dropout, **self.sublayer("drop"))

    def build(self, x_shape):
        self.fc1, self.fc2 = (
            keras.layers.Dense(
                units,
                kernel_initializer=fresh_initializer(self.kernel_initializer),
                **self.sublayer(name),
            )
            for name, units in (("fc1", self.hidden_dim), ("fc2", x_shape[-1]))
        )
        self.fc1.build(x_shape)
        self.fc2.build((*x_shape[:-1], self.hidden_dim))

    def call(self, x, hidden_mask=None, training=None):
        x = self.drop(self.activation(self.fc1(x)), training=training)
        if hidden_mask is not None:
            x = x * ops.cast(hidden_mask, x.dtype)
        return self.drop(self.fc2(x), training=training)

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": self.kernel_initializer,
        }


@serializable
class CvTBlock(ExplicitShapes, Composite):
    """Transformer block with convolutional projections, normalized before each half.

    `x + drop_path(attention(norm1(x)))`, then `x + drop_path(mlp(norm2(x)))`, for the map and the
    class token alike.

    Args:
        embed_dim: channels of the map.
        num_heads: number of heads; must divide `embed_dim`.
        mlp_ratio: width of the MLP's hidden layer, as a multiple of `embed_dim`; the product is
            rounded down.
        projection: As in `ConvProjectionAttention`, like the following ones.
        kernel_size: Of the depthwise convolutions.
        strides_q: With `padding_q`, it must keep the size of the map, for the residual connection.
        padding_q: Padding of the queries' convolution.
        strides_kv: Strides of the keys' and values' convolutions.
        padding_kv: Padding of the keys' and values' convolutions.
        use_bias: Whether the linear maps to queries, keys and values have a bias.
        attention_dropout: Dropout rate of the attention weights.
        kernel_initializer: Of the linear maps.
        dropout: dropout rate of the attention's result and in the MLP.
        drop_path: probability, in [0, 1), of dropping each half for a sample in training.
        activation: of the MLP; as in `MLP`.
        deployed: whether weights do the work of their neighbours as well, as `keras_cvt.deploy` makes
            them: for inference only.
        recompute: as in `ConvProjectionAttention`; nor does training keep anything of the MLP.

    Call arguments:
        x: map (batch, height, width, embed_dim), of any size.
        class_token: None, or (batch, 1, embed_dim).
        class_token_only: computes and returns the class token alone, which is all that a
            classifier needs of its last block.
        key_mask: as in `ConvProjectionAttention`.
        hidden_mask: as in `MLP`.

    Returns:
        The new map; with a class token (map, class token); with `class_token_only` the class token.

    Source: paper, figure 2b; official `Block`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        projection: str = "dw_bn",
        kernel_size: int = 3,
        strides_q: int = 1,
        padding_q: int = 1,
        strides_kv: int = 2,
        padding_kv: int = 1,
        use_bias: bool = True,
        attention_dropout: float = 0.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        activation: Any = "quick_gelu",
        kernel_initializer: Any = None,
        deployed: bool = False,
        recompute: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_block(
            embed_dim,
            num_heads,
            mlp_ratio,
            projection,
            kernel_size,
            strides_q,
            padding_q,
            strides_kv,
            padding_kv,
        )
        self.mlp_ratio = mlp_ratio
        self.activation = get_activation(activation)
        self.deployed = deployed
        self.recompute = recompute
        # Scale and offset go into the linear maps that follow. Convolutions can't take the offset:
        # it is not what they pad with.
        norm1_affine = not deployed or projection == "dw_bn"
        self.norm1 = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON,
            center=norm1_affine,
            scale=norm1_affine,
            **self.sublayer("norm1"),
        )
        self.attn = ConvProjectionAttention(
            embed_dim,
            num_heads,
            projection=projection,
            kernel_size=kernel_size,
            strides_q=strides_q,
            padding_q=padding_q,
            strides_kv=strides_kv,
            padding_kv=padding_kv,
            use_bias=use_bias,
            attention_dropout=attention_dropout,
            dropout=dropout,
            kernel_initializer=kernel_initializer,
            deployed=deployed,
            recompute=recompute,
            **self.sublayer("attn"),
        )
        self.drop_path = DropPath(drop_path, **self.sublayer("drop_path"))
        self.norm2 = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON,
            center=not deployed,
            scale=not deployed,
            **self.sublayer("norm2"),
        )
        self.mlp = MLP(
            int(embed_dim * mlp_ratio),
            # QuickGELU's factor of 1.702 goes into the weights.
            activation=ops.silu if self.folds_activation else self.activation,
            dropout=dropout,
            kernel_initializer=kernel_initializer,
            **self.sublayer("mlp"),
        )

    @property
    def folds_activation(self) -> bool:
        return self.deployed and self.activation is quick_gelu

    def build(self, x_shape, class_token_shape=None):
        self.norm1.build(x_shape)
        self.attn.build(x_shape, class_token_shape)
        self.norm2.build(x_shape)
        self.mlp.build(x_shape)

    def call(
        self,
        x,
        class_token=None,
        class_token_only=False,
        key_mask=None,
        hidden_mask=None,
        training=None,
    ):
        # The map and the class token go through norms and MLP as they are: joining them into one
        # sequence and parting them again would copy the map twice.
        tokens = [x] if class_token is None else [x, class_token]
        branch = self.attn(
            *[self.norm1(t) for t in tokens],
            class_token_only=class_token_only,
            key_mask=key_mask,
            training=training,
        )
        branch = list(branch) if isinstance(branch, tuple) else [branch]
        if class_token_only:
            tokens = [class_token]
        tokens = self._add(tokens, branch, training)

        def mlp(x):
            return self.mlp(self.norm2(x), hidden_mask=hidden_mask, training=training)

        branch = [call_recomputing(mlp, t, recompute=self.recompute and training) for t in tokens]
        tokens = self._add(tokens, branch, training)
        return tokens[0] if len(tokens) == 1 else tuple(tokens)

    def _add(self, tokens, branch, training):
        branch = self.drop_path(branch, training=training)
        return [t + b for t, b in zip(tokens, branch, strict=True)]

    def compute_output_shape(self, x_shape, class_token_shape=None, class_token_only=False):
        return self.attn.compute_output_shape(x_shape, class_token_shape, class_token_only)

    def compute_output_spec(
        self,
        x,
        class_token=None,
        class_token_only=False,
        key_mask=None,
        hidden_mask=None,
        training=None,
    ):
        token_shape = None if class_token is None else class_token.shape
        return self._spec(self.compute_output_shape(x.shape, token_shape, class_token_only))

    def get_config(self):
        attention = self.attn.get_config()
        for key in ("name", "trainable", "dtype", "sublayers_trainable", "sublayers_dtype"):
            attention.pop(key, None)  # the block's own say more
        return {
            **super().get_config(),
            **attention,
            "mlp_ratio": self.mlp_ratio,
            "drop_path": self.drop_path.rate,
            "activation": keras.activations.serialize(self.activation),
        }
