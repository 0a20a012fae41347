"""Layers of the Convolutional vision Transformer (CvT; Wu et al. 2021, arXiv:2103.15808).

Images and token maps are (batch, height, width, channels). The class token, where a stage has
one, travels beside the map as (batch, 1, channels); the two become one token sequence only inside
attention, so no layer ever has to guess a height and a width from a token count.

The function, its defaults and its initialization are those of the official `lib/models/cls_cvt.py`,
which differs from the paper in places. Sublayers carry the names of the official checkpoint's keys.
"""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

LAYER_NORM_EPSILON = 1e-5
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9  # torch calls the same thing momentum 0.1

PROJECTIONS = ("dw_bn", "linear")

Shape = tuple[int | None, ...]

serializable = keras.saving.register_keras_serializable(package="keras_cvt")


@serializable
def quick_gelu(x: Any) -> Any:
    """QuickGELU, `x * sigmoid(1.702 * x)`: the activation that the published weights were trained with.

    (Written through SiLU, TensorFlow's gradient would compute the sigmoid once more.)

    Args:
        x: floating point tensor of any shape.

    Returns:
        A tensor of the same shape and dtype.
    """
    return ops.multiply(x, ops.sigmoid(1.702 * x))


def get_activation(identifier: str | dict | Callable | None) -> Callable:
    """`keras.activations.get`, which also knows the name "quick_gelu"."""
    if identifier == "quick_gelu":
        return quick_gelu
    return keras.activations.get(identifier)


def conv_output_size(size: int | None, kernel_size: int, strides: int, padding: int) -> int | None:
    """Length of a convolution's output (paper, equation 1); None stays None."""
    return None if size is None else (size + 2 * padding - kernel_size) // strides + 1


def linear_initializer() -> keras.initializers.Initializer:
    # The official code truncates its normal distribution of deviation 0.02 at -2 and 2, a hundred
    # deviations away: it is a normal distribution. Keras' TruncatedNormal cuts at two deviations.
    return keras.initializers.RandomNormal(stddev=0.02)


def _fresh(initializer: str | dict | None) -> keras.initializers.Initializer:
    """A new initializer for each weight: one object gives the same numbers each time it is called."""
    return linear_initializer() if initializer is None else keras.initializers.get(initializer)


def _serialized(initializer: Any) -> str | dict | None:
    if isinstance(initializer, keras.initializers.Initializer):
        return keras.initializers.serialize(initializer)
    return initializer


def torch_uniform(fan_in: int) -> keras.initializers.Initializer:
    # torch's default, for kernels and biases, where the official code sets no other. The bound is
    # given, not left to VarianceScaling, which counts a depthwise kernel's fan-in over all channels.
    bound = fan_in**-0.5
    return keras.initializers.RandomUniform(-bound, bound)


def _check_map(layer: keras.Layer, shape: Shape, channels: int | None = None) -> int:
    """Returns the channels of a map's shape, which must be (batch, height, width, channels)."""
    if len(shape) != 4 or shape[-1] is None or shape[-1] != (channels or shape[-1]):
        raise ValueError(
            f"{type(layer).__name__} takes maps of shape (batch, height, width, "
            f"{channels or 'channels, which must be known'}). Received shape {tuple(shape)}."
        )
    return shape[-1]


def check_int(name: str, value: Any, minimum: int) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}. Received {value!r}.")
    return number


def check_rate(name: str, value: Any) -> float:
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and less than 1. Received {value!r}.")
    return float(value)


def check_convolution(kernel_size: Any, strides: Any, padding: Any) -> tuple[int, int, int]:
    return (
        check_int("kernel_size", kernel_size, 1),
        check_int("strides", strides, 1),
        check_int("padding", padding, 0),
    )


def check_heads(embed_dim: Any, num_heads: Any) -> tuple[int, int]:
    embed_dim = check_int("embed_dim", embed_dim, 1)
    num_heads = check_int("num_heads", num_heads, 1)
    if embed_dim % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}.")
    return embed_dim, num_heads


def check_projection(projection: Any) -> str:
    if projection not in PROJECTIONS:
        raise ValueError(f"`projection` must be one of {PROJECTIONS}. Received {projection!r}.")
    return projection


def check_block(
    embed_dim: Any,
    num_heads: Any,
    mlp_ratio: float,
    projection: Any,
    kernel_size: Any,
    strides_q: Any,
    padding_q: Any,
    strides_kv: Any,
    padding_kv: Any,
    **others: Any,
) -> None:
    """Refuses arguments of which no `CvTBlock` can be made. (To make one for that draws seeds.)"""
    check_projection(projection)
    embed_dim, _ = check_heads(embed_dim, num_heads)
    check_int("hidden_dim", int(embed_dim * mlp_ratio), 1)
    if projection == "linear":
        return
    kernel_size, strides_q, padding_q = check_convolution(kernel_size, strides_q, padding_q)
    check_convolution(kernel_size, strides_kv, padding_kv)
    if strides_q != 1 or 2 * padding_q != kernel_size - 1:
        raise ValueError(
            "A block adds the attention's result to its input, so the queries' convolution must "
            "keep the size of the map: strides_q=1 and padding_q=(kernel_size - 1) / 2. Received "
            f"kernel_size={kernel_size}, strides_q={strides_q}, padding_q={padding_q}."
        )


def _pad(x: Any, padding: int) -> Any:
    """As many zeros on each side: torch's padding, which "same" is not for strides above 1."""
    if padding == 0:
        return x
    return ops.pad(x, [[0, 0], [padding, padding], [padding, padding], [0, 0]])


def _padded_shape(shape: Shape, padding: int) -> Shape:
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


def _flatten_map(x: Any) -> Any:
    """(N, H, W, C) -> (N, H * W, C), whatever of H and W is known."""
    _, height, width, channels = ops.shape(x)
    return ops.reshape(x, (-1, height * width, channels))


def _call(function: Callable, *tensors: Any, recompute: bool) -> Any:
    """`function(*tensors)`; with `recompute`, nothing that it calculates on the way is kept for its
    gradient, which calculates it again. So it must neither draw random numbers nor assign a weight."""
    return keras.remat(function)(*tensors) if recompute else function(*tensors)


def _with_quantization(layer: keras.Layer, config: dict[str, Any]) -> dict[str, Any]:
    """The config of a layer that makes its own sublayers, which all take its dtype policy: with the
    policies of those that `quantize` has changed, so that a saved model is made anew as it was."""
    quantized = {
        sublayer.path: sublayer.dtype_policy
        for sublayer in layer._flatten_layers(include_self=False)
        if sublayer.quantization_mode is not None
    }
    if not quantized:
        return config
    policies = keras.dtype_policies.DTypePolicyMap(
        _policy_of(layer, layer.path), policy_map=quantized
    )
    return {**config, "dtype": keras.dtype_policies.serialize(policies)}


def _policy_of(layer: keras.Layer, path: str) -> keras.DTypePolicy:
    policy = layer.dtype_policy
    return policy[path] if isinstance(policy, keras.dtype_policies.DTypePolicyMap) else policy


def _build_dense(layer: keras.Layer, dense: keras.layers.Dense, shape: Shape) -> None:
    # A Dense looks itself up in a map of policies when it is built, but not when it is saved.
    dense.dtype_policy = _policy_of(layer, f"{layer.path}/{dense.name}")
    dense.build(shape)


class _ExplicitShapes(keras.layers.Layer):
    """A layer that says what it returns through `compute_output_shape` even where that depends on a
    call argument that is no tensor, which Keras' own `compute_output_spec` leaves out."""

    def _spec(self, shapes: Any) -> Any:
        if shapes and isinstance(shapes[0], tuple):
            return tuple(self._spec(shape) for shape in shapes)
        return keras.KerasTensor(shapes, dtype=self.compute_dtype)


@serializable
class DropPath(keras.layers.Layer):
    """Stochastic depth, per sample: in training, whole samples of a residual branch become zero.

    Each sample is kept with probability `1 - rate` and then divided by it. Several tensors given
    as a list are parts of one branch: a sample is dropped in all of them or in none.

    Args:
        rate: probability of dropping a sample, in [0, 1).
        seed: integer, or None for a random one.

    Call arguments:
        inputs: a tensor (batch, ...) or a list of them.
        training: whether to drop; otherwise the inputs are returned.

    Source: official `Block.drop_path` (timm's DropPath); Huang et al. 2016.
    """

    def __init__(self, rate: float = 0.0, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate("rate", rate)
        self.seed = seed
        if self.rate > 0:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, inputs, training=None):
        if not training or self.rate == 0:
            return inputs
        tensors = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        mask = self.draw_mask(ops.shape(tensors[0])[0])
        outputs = [x * ops.reshape(mask, (-1,) + (1,) * (len(x.shape) - 1)) for x in tensors]
        return outputs if isinstance(inputs, (list, tuple)) else outputs[0]

    def draw_mask(self, samples: Any) -> Any:
        """What to multiply each of so many samples with: 0 or 1 / (1 - rate), (samples,)."""
        ones = ops.ones((samples,), dtype=self.compute_dtype)
        return keras.random.dropout(ones, self.rate, seed=self.seed_generator)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


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
            shape=(1, 1, _check_map(self, x_shape)),
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
        channels = _check_map(self, x_shape)
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
class ConvEmbedding(keras.layers.Layer):
    """Convolutional token embedding: a convolution with overlapping patches, then LayerNorm.

    A non-overlapping patch embedding (Table 6) is `kernel_size=p, strides=p, padding=0`.

    Args:
        embed_dim: channels of the new map.
        kernel_size, strides, padding: integers, the same for height and width; `padding` zeros are
            added on each of the four sides.

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
            dtype=self.dtype_policy,
            name="proj",
        )
        self.norm = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON, dtype=self.dtype_policy, name="norm"
        )

    def build(self, x_shape):
        fan_in = self.kernel_size**2 * _check_map(self, x_shape)
        self.proj.kernel_initializer = torch_uniform(fan_in)
        self.proj.bias_initializer = torch_uniform(fan_in)
        output_shape = self.compute_output_shape(x_shape)
        self.proj.build(_padded_shape(x_shape, self.padding))
        self.norm.build(output_shape)

    def call(self, x):
        self.compute_output_shape(x.shape)  # says what is wrong with a size that is too small
        return self.norm(self.proj(_pad(x, self.padding)))

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


@serializable
class ConvProjection(keras.layers.Layer):
    """Depthwise convolution, then BatchNorm: the convolutional half of a convolutional projection.

    Args:
        kernel_size, strides, padding: as in `ConvEmbedding`.
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
        # "same" saves an operation where it pads as torch does.
        self._same = self.strides == 1 and 2 * self.padding == self.kernel_size - 1
        self.conv = keras.layers.DepthwiseConv2D(
            kernel_size,
            strides=strides,
            padding="same" if self._same else "valid",
            use_bias=deployed,
            depthwise_initializer=torch_uniform(kernel_size**2),
            data_format="channels_last",
            # BatchNorm computes in float32 anyway. And in bfloat16, TensorFlow's gradient of a
            # strided depthwise convolution takes twenty times as long on a processor.
            dtype=self.dtype_policy if deployed else self.dtype_policy.variable_dtype,
            name="conv",
        )
        self.bn = None
        if not deployed:
            self.bn = keras.layers.BatchNormalization(
                momentum=BATCH_NORM_MOMENTUM,
                epsilon=BATCH_NORM_EPSILON,
                dtype=self.dtype_policy,
                name="bn",
            )

    def build(self, x_shape):
        _check_map(self, x_shape)
        self.conv.build(x_shape if self._same else _padded_shape(x_shape, self.padding))
        if self.bn is not None:
            self.bn.build(self.compute_output_shape(x_shape))

    def call(self, x, training=None):
        if not self._same:
            x = _pad(x, self.padding)
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
class ConvProjectionAttention(_ExplicitShapes):
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
        strides_q, padding_q: of the queries' convolution.
        strides_kv, padding_kv: of the keys' and values' convolutions (Table 7).
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
        self.kernel_initializer = _serialized(kernel_initializer)
        self.deployed = deployed
        self.recompute = recompute
        if recompute and (attention_dropout or dropout):
            raise ValueError(
                "`recompute` needs dropout rates of 0 (but for drop path): calculated again, other "
                f"numbers would be dropped. Received rates {attention_dropout} and {dropout}."
            )
        if projection == "dw_bn":
            args = {"kernel_size": kernel_size, "deployed": deployed, "dtype": self.dtype_policy}
            args_q = {**args, "strides": strides_q, "padding": padding_q}
            args_kv = {**args, "strides": strides_kv, "padding": padding_kv}
            self.conv_proj_q = ConvProjection(**args_q, name="conv_proj_q")
            self.conv_proj_k = ConvProjection(**args_kv, name="conv_proj_k")
            self.conv_proj_v = ConvProjection(**args_kv, name="conv_proj_v")
        else:
            self.conv_proj_q = self.conv_proj_k = self.conv_proj_v = None
        self.proj_q, self.proj_k, self.proj_v, self.proj = (
            keras.layers.Dense(
                embed_dim,
                use_bias=use_bias or deployed or name == "proj",
                kernel_initializer=_fresh(self.kernel_initializer),
                dtype=self.dtype_policy,
                name=name,
            )
            for name in ("proj_q", "proj_k", "proj_v", "proj")
        )
        self.attn_drop = keras.layers.Dropout(
            attention_dropout, dtype=self.dtype_policy, name="attn_drop"
        )
        self.proj_drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="proj_drop")

    def build(self, x_shape, class_token_shape=None):
        _check_map(self, x_shape, self.embed_dim)
        for conv in (self.conv_proj_q, self.conv_proj_k, self.conv_proj_v):
            if conv is not None:
                conv.build(x_shape)
        for dense in (self.proj_q, self.proj_k, self.proj_v, self.proj):
            _build_dense(self, dense, (None, None, self.embed_dim))

    def call(self, x, class_token=None, class_token_only=False, training=None):
        q, k, v, q_map = self._tokens(x, class_token, class_token_only, training)

        def attend(q, k, v):
            return self._attend(q, k, v, training)

        y = _call(attend, q, k, v, recompute=self.recompute and training)

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
            x, class_token, class_token_only: as the layer itself is called with them.

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

    def _weights(self, q, k):
        # Scaling the queries, not the scores, touches fewer numbers and can't overflow float16.
        q = self.proj_q(q)
        q = self._split_heads(q if self.deployed else q * self.embed_dim**-0.5)
        scores = ops.matmul(q, ops.transpose(self._split_heads(self.proj_k(k)), (0, 1, 3, 2)))
        return ops.softmax(ops.cast(scores, at_least_float32(self.compute_dtype)))

    def _attend(self, q, k, v, training):
        weights = ops.cast(self._weights(q, k), self.compute_dtype)
        weights = self.attn_drop(weights, training=training)
        y = ops.matmul(weights, self._split_heads(self.proj_v(v)))
        y = ops.transpose(y, (0, 2, 1, 3))
        y = ops.reshape(y, (-1, ops.shape(y)[1], self.embed_dim))
        return self.proj_drop(self.proj(y), training=training)

    def _convolve(self, conv, x, training):
        return x if conv is None else conv(x, training=training)

    def _join(self, x, class_token):
        tokens = _flatten_map(x)
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

    def compute_output_spec(self, x, class_token=None, class_token_only=False, training=None):
        token_shape = None if class_token is None else class_token.shape
        return self._spec(self.compute_output_shape(x.shape, token_shape, class_token_only))

    def get_config(self):
        return {
            **_with_quantization(self, super().get_config()),
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


@serializable
class MLP(keras.layers.Layer):
    """Two linear maps with an activation between them, on the last axis.

    Args:
        hidden_dim: width between the two.
        activation: "quick_gelu", or whatever `keras.activations.get` takes.
        dropout: dropout rate after each of the two.
        kernel_initializer: as in `ConvProjectionAttention`.

    Call arguments:
        x: (..., channels).

    Returns:
        A tensor of the same shape.

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
        self.kernel_initializer = _serialized(kernel_initializer)
        self.drop = keras.layers.Dropout(dropout, dtype=self.dtype_policy, name="drop")

    def build(self, x_shape):
        self.fc1, self.fc2 = (
            keras.layers.Dense(
                units,
                kernel_initializer=_fresh(self.kernel_initializer),
                dtype=self.dtype_policy,
                name=name,
            )
            for name, units in (("fc1", self.hidden_dim), ("fc2", x_shape[-1]))
        )
        _build_dense(self, self.fc1, x_shape)
        _build_dense(self, self.fc2, (*x_shape[:-1], self.hidden_dim))

    def call(self, x, training=None):
        x = self.drop(self.activation(self.fc1(x)), training=training)
        return self.drop(self.fc2(x), training=training)

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {
            **_with_quantization(self, super().get_config()),
            "hidden_dim": self.hidden_dim,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "kernel_initializer": self.kernel_initializer,
        }


@serializable
class CvTBlock(_ExplicitShapes):
    """Transformer block with convolutional projections, normalized before each half.

    `x + drop_path(attention(norm1(x)))`, then `x + drop_path(mlp(norm2(x)))`, for the map and the
    class token alike.

    Args:
        embed_dim: channels of the map.
        num_heads: number of heads; must divide `embed_dim`.
        mlp_ratio: width of the MLP's hidden layer, as a multiple of `embed_dim`; the product is
            rounded down.
        projection, kernel_size, strides_q, padding_q, strides_kv, padding_kv, use_bias,
            attention_dropout, kernel_initializer: as in `ConvProjectionAttention`. The queries'
            convolution must keep the size of the map, for the sake of the residual connection.
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
        policy = self.dtype_policy
        # Scale and offset go into the linear maps that follow. Convolutions can't take the offset:
        # it is not what they pad with.
        norm1_affine = not deployed or projection == "dw_bn"
        self.norm1 = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON,
            center=norm1_affine,
            scale=norm1_affine,
            dtype=policy,
            name="norm1",
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
            dtype=policy,
            name="attn",
        )
        self.drop_path = DropPath(drop_path, dtype=policy, name="drop_path")
        self.norm2 = keras.layers.LayerNormalization(
            epsilon=LAYER_NORM_EPSILON,
            center=not deployed,
            scale=not deployed,
            dtype=policy,
            name="norm2",
        )
        self.mlp = MLP(
            int(embed_dim * mlp_ratio),
            # QuickGELU's factor of 1.702 goes into the weights.
            activation=ops.silu if self.folds_activation else self.activation,
            dropout=dropout,
            kernel_initializer=kernel_initializer,
            dtype=policy,
            name="mlp",
        )

    @property
    def folds_activation(self) -> bool:
        return self.deployed and self.activation is quick_gelu

    def build(self, x_shape, class_token_shape=None):
        self.norm1.build(x_shape)
        self.attn.build(x_shape, class_token_shape)
        self.norm2.build(x_shape)
        self.mlp.build(x_shape)

    def call(self, x, class_token=None, class_token_only=False, training=None):
        # The map and the class token go through norms and MLP as they are: joining them into one
        # sequence and parting them again would copy the map twice.
        tokens = [x] if class_token is None else [x, class_token]
        branch = self.attn(
            *[self.norm1(t) for t in tokens], class_token_only=class_token_only, training=training
        )
        branch = list(branch) if isinstance(branch, tuple) else [branch]
        if class_token_only:
            tokens = [class_token]
        tokens = self._add(tokens, branch, training)

        def mlp(x):
            return self.mlp(self.norm2(x), training=training)

        branch = [_call(mlp, t, recompute=self.recompute and training) for t in tokens]
        tokens = self._add(tokens, branch, training)
        return tokens[0] if len(tokens) == 1 else tuple(tokens)

    def _add(self, tokens, branch, training):
        branch = self.drop_path(branch, training=training)
        return [t + b for t, b in zip(tokens, branch, strict=True)]

    def compute_output_shape(self, x_shape, class_token_shape=None, class_token_only=False):
        return self.attn.compute_output_shape(x_shape, class_token_shape, class_token_only)

    def compute_output_spec(self, x, class_token=None, class_token_only=False, training=None):
        token_shape = None if class_token is None else class_token.shape
        return self._spec(self.compute_output_shape(x.shape, token_shape, class_token_only))

    def get_config(self):
        attention = self.attn.get_config()
        for key in ("name", "trainable", "dtype"):
            del attention[key]
        return {
            **_with_quantization(self, super().get_config()),
            **attention,
            "mlp_ratio": self.mlp_ratio,
            "drop_path": self.drop_path.rate,
            "activation": keras.activations.serialize(self.activation),
        }
