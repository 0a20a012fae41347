"""Where a CvT looks: the attention of its class token, as numbers and as pictures.

    image = load_image("cat.jpg")
    attention = attention_maps(model, preprocess_input(image[np.newaxis]))
    plot_attention(image, attention)

In the last stage the class token collects what the head then sees. Its queries meet keys that a
convolution has made of the map, of every second position in the official models: at 224 pixels there
are 14x14 positions in the map and 7x7 keys. A key stands where its kernel's centre is, and the map's
first position is not at the edge of the picture, as if that were cut into equal squares, but where the
centres of the convolutions meet: that is where weights are drawn here.

Attention says where a block reads from, not why the answer is what it is: what is read there has come
together from a larger part of the picture in the blocks before.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_cvt import _figures, layers
from keras_cvt.architecture import StageConfig, conv_output_size
from keras_cvt.layers.common import linear_interpolation
from keras_cvt.structure import structure_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """The class token's attention in the blocks of the last stage.

    All arrays are float32; those of a model in float64 are float64.

    Attributes:
        keys: for each block (batch, heads, key height, key width), the weights on the keys that are
            made of the map, as the model computes them.
        token: (batch, blocks, heads), the weight on the class token itself. Together with `keys` it
            sums to 1.
        maps: (batch, blocks, heads, height, width), `keys` at the map's resolution: interpolated
            linearly between the keys, and scaled so that the sum stays.
        rollout: (batch, height, width), the shares of the map's positions, as it enters the stage's
            first block, in the class token after its last. They and the class token's own share sum
            to 1.
        image_size: (height, width) of the image in pixels.
        start, stride: map position (i, j) is made of the pixels around (start + stride * i, start +
            stride * j), of which (0, 0) is the first.
    """

    keys: tuple[np.ndarray, ...]
    token: np.ndarray
    maps: np.ndarray
    rollout: np.ndarray
    image_size: tuple[int, int]
    start: float
    stride: int


def attention_maps(model: keras.Model, images: Any) -> AttentionMaps:
    """The class token's attention to the map in every block of the last stage, and over all of them.

    Rollout (Abnar and Zuidema 2020, arXiv:2005.00928) takes the mean of the heads, counts the residual
    connection as half of each token, and multiplies the blocks' matrices. Each row of weights on keys
    is brought to the map's resolution first.

    Args:
        model: A CvT with a class token in its last stage, or a functional model with such a CvT in
            it, deployed or not. It is not changed.
        images: (batch, height, width, channels), preprocessed as for the model's `predict`. They go
            through the model all at once.

    Returns:
        `AttentionMaps`: what the model computes of these images in inference. `image_size`, `start`
        and `stride` are in pixels of the image that enters the CvT.

    Raises:
        ValueError: If the model has no CvT or more than one, if the last stage has no class token, or
            for images of another shape.
    """
    structure = structure_of(model)
    last = structure.stages[-1]
    if last.class_token is None:
        raise ValueError(
            f"The attention of the class token is asked for, and the last stage of {model.name!r} has "
            "none."
        )
    structure.around()  # says what stands in the way
    if len(model.inputs) != 1:
        raise ValueError(
            f"Attention maps are made of images alone, and {model.name!r} has {len(model.inputs)} "
            "inputs. Give the CvT in it, or a keras.Model with the images as its only input."
        )
    shape = tuple(np.shape(images))
    if len(shape) != 4:
        raise ValueError(
            f"`images` must be (batch, height, width, channels). Received shape {shape}; for one image "
            "add an axis: image[np.newaxis]."
        )
    blocks = last.blocks
    pixels, inputs = structure.compute(images, [structure.image, list(map(list, last.inputs))])
    rows = []
    for block, tokens in zip(blocks, inputs, strict=True):
        # Of the last block the class token's row is all that is used.
        weights = block.attn.attention_weights(
            *[block.norm1(t) for t in tokens], class_token_only=block is blocks[-1]
        )
        rows.append(keras.ops.convert_to_numpy(weights))

    height, width = inputs[0][0].shape[1:3]
    grids = [_Grid(block.attn, height, width) for block in blocks]
    of_token = [weights[:, :, 0] for weights in rows]
    keys = [
        weights[..., 1:].reshape(*weights.shape[:2], *grid.size)
        for weights, grid in zip(of_token, grids, strict=True)
    ]
    start, stride = _centers(structure.configs)
    return AttentionMaps(
        keys=tuple(keys),
        token=np.stack([weights[..., 0] for weights in of_token], axis=1),
        maps=np.stack(
            [grid.on_map(grid.scaled(k)) for grid, k in zip(grids, keys, strict=True)], axis=1
        ),
        rollout=_rollout(rows, grids, height, width),
        image_size=tuple(pixels.shape[1:3]),
        start=start,
        stride=stride,
    )


class _Grid:
    """Where the keys of one block stand in the map."""

    def __init__(self, attention: layers.ConvProjectionAttention, height: int, width: int):
        conv = attention.conv_proj_k
        kernel, stride, padding = (
            (1, 1, 0) if conv is None else (conv.kernel_size, conv.strides, conv.padding)
        )
        self._rows, self._columns = (
            _interpolation(
                (np.arange(side) + padding - (kernel - 1) / 2) / stride,
                conv_output_size(side, kernel, stride, padding),
            )
            for side in (height, width)
        )
        self.size = (self._rows.shape[1], self._columns.shape[1])

    def on_map(self, keys: np.ndarray) -> np.ndarray:
        """(..., key height, key width) -> (..., height, width), interpolated."""
        return self._rows @ keys @ self._columns.T

    def scaled(self, keys: np.ndarray) -> np.ndarray:
        """Weights whose sum on the map is the one that they have here."""
        sizes = np.outer(self._rows.sum(0), self._columns.sum(0))
        here, there = (x.sum((-2, -1), keepdims=True) for x in (keys, keys * sizes))
        # Where the class token has all the weight nothing is left to be scaled.
        return keys * np.divide(here, there, out=np.zeros_like(here), where=there > 0)


def _interpolation(points: np.ndarray, size: int) -> np.ndarray:
    return keras.ops.convert_to_numpy(linear_interpolation(keras.ops.cast(points, "float32"), size))


def _rollout(rows: list[np.ndarray], grids: list[_Grid], height: int, width: int) -> np.ndarray:
    """The class token's row of the product of the blocks' matrices, from the last block backwards."""
    batch = len(rows[0])
    share = np.ones((batch, 1), "float32")  # of the tokens after a block: the class token has all
    for weights, grid in zip(reversed(rows), reversed(grids), strict=True):
        weights = weights.mean(axis=1)  # (batch, queries, 1 + keys)
        keys = grid.scaled(weights[..., 1:].reshape(*weights.shape[:2], *grid.size))
        on_map = grid.on_map(np.einsum("bq,bqhw->bhw", share, keys))
        on_token = np.einsum("bq,bq->b", share, weights[..., 0])
        before = np.concatenate([on_token[:, np.newaxis], on_map.reshape(batch, -1)], axis=1)
        before[:, : share.shape[1]] += share  # the residual connection
        share = before / 2
    return share[:, 1:].reshape(batch, height, width)


def _centers(stages: list[StageConfig]) -> tuple[float, int]:
    """(start, stride): position i of the last map is made of the pixels around start + stride * i."""
    start, stride = 0.0, 1
    for stage in stages:
        start += stride * ((stage.patch_size - 1) / 2 - stage.patch_padding)
        stride *= stage.patch_stride
    return start, stride


def plot_attention(picture: Any, attention: AttentionMaps, index: int = 0) -> Figure:
    """Draws the attention over the picture: one panel for each block, the last for rollout.

    Bright is where a panel's weights are large, from 0 to the largest of that panel; a block's are the
    mean of its heads. Above each block is the share of its attention that the map has; the class token
    itself has the rest.

    Args:
        picture: (height, width, 3) RGB, or grey (height, width) or (height, width, 1), 0 to 255, as
            `load_image` gives it, before it is preprocessed. It may be larger or smaller than the
            model's image, if it shows the same.
        attention: what `attention_maps` returns.
        index: of the image in the batch.

    Returns:
        A matplotlib figure: `figure.savefig("attention.png")`; a notebook shows it.

    Raises:
        ImportError: without matplotlib.
        ValueError: for a picture of another shape, or an index that is not in the batch.
    """
    picture = np.asarray(picture)
    if picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(
            "`picture` must be (height, width, 3), or grey (height, width). Received shape "
            f"{picture.shape}."
        )
    batch = len(attention.maps)
    if not 0 <= index < batch:
        raise ValueError(f"`index` must be from 0 to {batch - 1}. Received {index}.")
    pixels = picture.reshape(*picture.shape[:2], -1).astype("float32") / 255
    onto = [
        _interpolation(
            ((np.arange(side) + 0.5) * of_image / side - 0.5 - attention.start) / attention.stride,
            positions,
        )
        for side, of_image, positions in zip(
            pixels.shape, attention.image_size, attention.rollout.shape[1:], strict=False
        )
    ]
    panels = [
        (f"block {j + 1}: {weights.sum():.0%}", weights)
        for j, weights in enumerate(attention.maps[index].mean(axis=1))
    ]
    panels.append(("rollout", attention.rollout[index]))

    side = 2.0  # inches
    size = (side, side * pixels.shape[0] / pixels.shape[1] + 0.3)
    figure, grid = _figures.image_grid(len(panels) + 1, size, most_columns=6)
    grid[0].imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    grid[0].set_title("picture", fontsize=9)
    for axes, (title, weights) in zip(grid[1:], panels, strict=False):
        heat = onto[0] @ weights @ onto[1].T
        axes.imshow(_overlaid(pixels, heat / (heat.max() or 1)))
        axes.set_title(title, fontsize=9)
    return figure


def _overlaid(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The picture in grey, dark where `heat` is 0, and coloured the more, the nearer it is to 1."""
    grey = pixels.mean(axis=-1, keepdims=True)
    colours = _figures.import_matplotlib().colormaps["inferno"](heat)[..., :3]
    return np.clip(0.35 * grey + 0.75 * colours, 0, 1)
