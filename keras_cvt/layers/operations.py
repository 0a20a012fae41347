"""Operations that some backends and devices compute faster than `keras.ops` has them computed.

Each is the plain operation's function, up to rounding. Which one is used is decided here alone, by
backend, device and dtype, as measured on one H100 and on a processor (docs/gpu.md).
TensorFlow always takes the plain ones.
"""

from __future__ import annotations

import functools
from typing import Any

import keras
from keras import ops

from keras_cvt.layers.common import at_least_float32, pad

HALF = ("float16", "bfloat16")


def jax_device() -> Any:
    """The device on which JAX computes what is traced now; None on other backends."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    device = jax.config.jax_default_device or jax.devices()[0]
    return jax.devices(device)[0] if isinstance(device, str) else device


def on_gpu() -> bool:
    """Whether the layers compute on a GPU. Not asked of TensorFlow, where nothing depends on it."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    device = jax_device()
    return device is not None and device.platform == "gpu"


def half_convolutions() -> bool:
    """Whether mixed precision computes depthwise convolutions in half precision before BatchNorm.

    A processor gains nothing by that: BatchNorm computes in float32 anyway, and in bfloat16
    TensorFlow's gradient of a strided depthwise convolution takes twenty times as long there. On a
    GPU, casts and float32 maps cost more than the convolutions themselves.
    """
    return on_gpu()


def convolution_kernel() -> str:
    """How depthwise convolutions are computed: "sum", "sum, own gradient", or "" for the backend's.

    On a processor, XLA's depthwise convolution takes 4 to 75 times as long as nine shifted products. On
    a GPU, cuDNN is slow at some strided ones, XLA takes minutes to choose among its kernels, and a sum
    can be fused with what follows. But there XLA is slow at the kernel's gradient of a sum.
    """
    device = jax_device()
    if device is None:
        return ""
    return {"cpu": "sum", "gpu": "sum, own gradient"}.get(device.platform, "")


class DepthwiseConvolution(keras.layers.DepthwiseConv2D):
    """A depthwise convolution of a map, with so many zeros on each of its four sides.

    Args:
        kernel_size, strides, zeros: Integers, the same for height and width.
    """

    def __init__(self, kernel_size: int, strides: int, zeros: int, **kwargs):
        # "same" saves an operation where it pads as torch does.
        self.pads_itself = strides == 1 and 2 * zeros == kernel_size - 1
        super().__init__(
            kernel_size,
            strides=strides,
            padding="same" if self.pads_itself else "valid",
            data_format="channels_last",
            **kwargs,
        )
        self.zeros = zeros

    def call(self, inputs):
        kernel = convolution_kernel()
        if not kernel:
            return super().call(inputs if self.pads_itself else pad(inputs, self.zeros))
        convolve = sum_of_products if kernel == "sum" else _sum_with_gradient()
        y = convolve(inputs, ops.convert_to_tensor(self.kernel), self.strides[0], self.zeros)
        return y if self.bias is None else y + self.bias


def sum_of_products(x: Any, kernel: Any, strides: int, zeros: int) -> Any:
    """A depthwise convolution as a sum of shifted maps, each times a vector, in float32 at least.

    Args:
        x: (batch, height, width, channels), whose height and width are known.
        kernel: (rows, columns, channels, 1).
        strides, zeros: Integers, the same for height and width.
    """
    dtype = keras.backend.standardize_dtype(x.dtype)
    kernel = ops.cast(kernel, at_least_float32(dtype))
    y = 0
    for i, j, shifted in _shifted(x, kernel, strides, zeros):
        y = y + ops.cast(shifted, kernel.dtype) * kernel[i, j, :, 0]
    return ops.cast(y, dtype)


def _shifted(x: Any, kernel: Any, strides: int, zeros: int):
    """(row, column, what this place of the kernel is multiplied with) of each place of a kernel."""
    rows, columns = kernel.shape[:2]
    height, width = (
        (size + 2 * zeros - length) // strides
        for size, length in zip(x.shape[1:3], (rows, columns), strict=True)
    )
    x = pad(x, zeros)
    for i in range(rows):
        for j in range(columns):
            of_height = slice(i, i + strides * height + 1, strides)
            yield i, j, x[:, of_height, j : j + strides * width + 1 : strides]


@functools.cache
def _sum_with_gradient():
    """`sum_of_products` for JAX on a GPU, with the convolution's gradient of the kernel.

    XLA would compute what made the map and the gradient anew in each of the sums over batch, height and
    width, which takes 20 times as long. It does not do so for a convolution of cuDNN.
    """
    import jax

    convolve = jax.custom_vjp(sum_of_products, nondiff_argnums=(2, 3))

    def forward(x, kernel, strides, zeros):
        return convolve(x, kernel, strides, zeros), (x, kernel)

    def backward(strides, zeros, kept, gradient):
        x, kernel = kept
        _, to_x = jax.vjp(lambda x: sum_of_products(x, kernel, strides, zeros), x)
        _, to_kernel = jax.vjp(lambda k: ops.depthwise_conv(pad(x, zeros), k, strides), kernel)
        return *to_x(gradient), *to_kernel(gradient)

    convolve.defvjp(forward, backward)
    return convolve


def attention_kernel(x: Any, dtype: str, width: int) -> str:
    """What computes attention in one operation: "cudnn", "torch", or "" if nothing does that better.

    One operation keeps the scores out of memory, which takes up to half of the plain one's time on a
    GPU. For processors JAX has none that is faster, and torch's is slower in half precision.

    Args:
        x: A tensor from which the queries, keys and values come.
        dtype: In which they are.
        width: Channels of a head.
    """
    if keras.backend.backend() == "torch":
        return "torch" if x.device.type == "cuda" or dtype not in HALF else ""
    fits = dtype in HALF and width % 8 == 0 and width <= 128
    return "cudnn" if fits and on_gpu() and _has_cudnn(jax_device()) else ""


def _has_cudnn(device: Any) -> bool:
    """Whether JAX's cuDNN computes attention on a GPU: from Ampere on."""
    if "cuda" not in device.client.platform_version:
        return False
    return tuple(int(number) for number in device.compute_capability.split(".")) >= (8, 0)


def even_length(x: Any) -> Any:
    """Tokens (batch, tokens, ...), with a token of zeros behind them if their number is odd."""
    if x.shape[1] % 2 == 0:
        return x
    return ops.pad(x, [[0, 0], [0, 1], *[[0, 0]] * (len(x.shape) - 2)])


def attention(kernel: str, q: Any, k: Any, v: Any, scale: float, keys: int) -> Any:
    """Attention in one operation, its softmax in float32 at least.

    Args:
        kernel: As `attention_kernel` returns it; or "xla", JAX's own, which takes what "cudnn" takes.
        q, k, v: (batch, tokens, heads, channels).
        scale: Of the scores.
        keys: How many keys and values count; those behind them are passed over.
    """
    if kernel == "torch":
        from torch.nn.functional import scaled_dot_product_attention

        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)
    if q.shape[1] % 2 or k.shape[1] % 2:
        return _odd_attention()(kernel, q, k, v, scale, keys)
    return _jax_attention(kernel, q, k, v, scale, keys)


def _jax_attention(kernel, q, k, v, scale, keys):
    import jax

    counted = None
    if keys < k.shape[1]:
        counted = jax.numpy.full(k.shape[:1], keys, "int32")
    return jax.nn.dot_product_attention(
        q, k, v, scale=scale, key_value_seq_lengths=counted, implementation=kernel
    )


@functools.cache
def _odd_attention():
    """Attention for JAX whose gradient, which there is for even lengths alone, takes longer ones."""
    import jax

    attend = jax.custom_vjp(_jax_attention, nondiff_argnums=(0, 4, 5))

    def forward(kernel, q, k, v, scale, keys):
        queries = q.shape[1]

        def attend_longer(*tokens):
            q, k, v = (even_length(x) for x in tokens)
            return _jax_attention(kernel, q, k, v, scale, keys)[:, :queries]

        return jax.vjp(attend_longer, q, k, v)

    def backward(kernel, scale, keys, pull, gradient):
        return pull(gradient)

    attend.defvjp(forward, backward)
    return attend
