"""What the layers could do instead, for the comparison only: each computes the same function."""

from __future__ import annotations

from keras import ops

from benchmarks.gpu import cases
from keras_cvt import layers


def apply(name: str) -> None:
    """Replaces what the contender's name says, for all models that this process makes after."""
    if cases.SHIFTED in name:
        layers.ConvProjection.call = _shifted
    if cases.FUSED in name:
        layers.ConvProjectionAttention._attend = _fused
    if cases.HALF in name:
        layers.ConvProjection.build = _half


def _shifted(self, x, training=None):
    """A depthwise convolution as a sum of products with shifted maps, which compilers can fuse."""
    size, strides = self.kernel_size, self.strides
    _, height, width, _ = self.compute_output_shape(x.shape)
    sides = [[self.padding, self.padding]] * 2
    x = ops.cast(ops.pad(x, [[0, 0], *sides, [0, 0]]), self.conv.compute_dtype)
    kernel = ops.cast(self.conv.kernel, self.conv.compute_dtype)
    y = 0
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + strides * (height - 1) + 1, strides)
            columns = slice(j, j + strides * (width - 1) + 1, strides)
            y = y + x[:, rows, columns] * kernel[i, j, :, 0]
    if self.bn is None:
        return y + ops.cast(self.conv.bias, y.dtype)
    return self.bn(y, training=training)


_attend = layers.ConvProjectionAttention._attend


def _fused(self, q, k, v, training):
    """Attention in one operation, where there are queries of a map."""
    if q.shape[1] == 1:
        return _attend(self, q, k, v, training)

    def heads(x):
        shape = (-1, x.shape[1], self.num_heads, self.embed_dim // self.num_heads)
        return ops.reshape(x, shape)

    y = ops.dot_product_attention(
        heads(self.proj_q(q)),
        heads(self.proj_k(k)),
        heads(self.proj_v(v)),
        scale=1.0 if self.deployed else self.embed_dim**-0.5,
    )
    y = ops.reshape(y, (-1, q.shape[1], self.embed_dim))
    return self.proj_drop(self.proj(y), training=training)


_build = layers.ConvProjection.build


def _half(self, x_shape):
    """The convolution computes in the layer's dtype, as a deployed one does."""
    self.conv.dtype_policy = self.dtype_policy
    _build(self, x_shape)
