"""Parameters and multiply-adds of a CvT, layer by layer, computed from its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from keras_cvt.architecture import StageConfig, as_stages, check_input_size, conv_output_size
from keras_cvt.structure import structure_of


@dataclasses.dataclass(frozen=True)
class Row:
    """What one layer costs.

    Attributes:
        name: path of the layer in the model.
        parameters: trainable numbers.
        statistics: numbers that training keeps but does not learn (BatchNorm's moving statistics).
        multiply_adds: for one image, when every token goes through every block, which is how the
            paper and the usual counters count. Norms and activations are not counted.
        computed: the multiply-adds that the model really does: less in the last block, if only its
            class token is asked for.
    """

    name: str
    parameters: int = 0
    statistics: int = 0
    multiply_adds: int = 0
    computed: int = 0


@dataclasses.dataclass(frozen=True)
class Complexity:
    """The rows of a model's layers, and their sums under the same names."""

    rows: tuple[Row, ...]

    @property
    def parameters(self) -> int:
        return sum(row.parameters for row in self.rows)

    @property
    def statistics(self) -> int:
        return sum(row.statistics for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        return sum(row.multiply_adds for row in self.rows)

    @property
    def computed(self) -> int:
        return sum(row.computed for row in self.rows)

    def by_layer(self) -> list[Row]:
        """The rows added up to the layers of the model."""
        sums: dict[str, list[int]] = {}
        for row in self.rows:
            totals = sums.setdefault(row.name.partition("/")[0], [0, 0, 0, 0])
            for i, value in enumerate(dataclasses.astuple(row)[1:]):
                totals[i] += value
        return [Row(name, *totals) for name, totals in sums.items()]


def complexity(
    model_or_stages: keras.Model | Sequence[StageConfig | Mapping[str, Any]],
    input_shape: Sequence[int | None] | None = None,
    classes: int = 1000,
) -> Complexity:
    """Counts the parameters and multiply-adds of a model, or of a model that is not made yet.

    Args:
        model_or_stages: A model with a CvT in it, of which the CvT is counted: its stages, its final
            norm, and a Dense directly on that norm. Or stages as `CvT` takes them, which are counted
            with the classifier.
        input_shape: (height, width, channels) of one image as it enters the CvT. Defaults to what the
            model knows of it; with stages, to (224, 224, 3).
        classes: Number of classes, if stages are given; 0 for no classifier. Defaults to 1000.

    Returns:
        A `Complexity`: `parameters`, `statistics`, `multiply_adds`, `computed`, and `rows` by layer;
        for a deployed model, those of the model from which it was made. Layers around the CvT are not
        counted.

    Raises:
        ValueError: If the model has no CvT or more than one, or for images that are too small or of
            unknown size.

    Example:

    ```python
    cost = keras_cvt.complexity(keras_cvt.CvT13(weights=None))
    print(f"{cost.parameters:,} parameters, {cost.multiply_adds:,} multiply-adds")
    ```
    """
    design = described(model_or_stages, input_shape, classes)
    rows: list[Row] = []
    channels = design.input_shape[-1]
    for i, (stage, (height, width, dim)) in enumerate(zip(design.stages, design.maps, strict=True)):
        only = design.token_only and i == len(design.stages) - 1
        rows += _stage_rows(f"stage{i}", stage, height, width, channels, only)
        channels = dim
    if design.norm:
        rows.append(Row("norm", 2 * channels))
    if design.classes:
        rows.append(_linear("head", channels, design.classes, tokens=1))
    return Complexity(tuple(rows))


@dataclasses.dataclass(frozen=True)
class Design:
    """What a model is made of.

    Attributes:
        stages: their configurations.
        input_shape: (height, width, channels) of one image.
        maps: of each stage, the same of its map.
        classes: of the classifier; 0 for none.
        norm: whether there is a final norm.
        token_only: whether of the last block only the class token is computed.
    """

    stages: tuple[StageConfig, ...]
    input_shape: tuple[int, int, int]
    maps: tuple[tuple[int, int, int], ...]
    classes: int
    norm: bool
    token_only: bool


def described(
    model_or_stages: keras.Model | Sequence[StageConfig | Mapping[str, Any]],
    input_shape: Sequence[int | None] | None = None,
    classes: int = 1000,
) -> Design:
    """The design of a model, or of one that is not made yet. Arguments and errors: of `complexity`."""
    if isinstance(model_or_stages, keras.Model):
        structure = structure_of(model_or_stages)
        stages = structure.configs
        shape = tuple(structure.image.shape[1:]) if input_shape is None else tuple(input_shape)
        classes = 0 if structure.classifier is None else structure.classifier.units
        norm = structure.norm is not None
        token_only = structure.token_only
    else:
        stages = as_stages(model_or_stages)
        shape = (224, 224, 3) if input_shape is None else tuple(input_shape)
        norm = bool(classes)
        token_only = norm and stages[-1].class_token
    if len(shape) != 3 or None in shape:
        raise ValueError(
            f"`input_shape` must be (height, width, channels) without None. Received {shape}."
        )
    check_input_size(stages, shape)

    maps = []
    height, width, _ = shape
    for stage in stages:
        height, width = (
            conv_output_size(size, stage.patch_size, stage.patch_stride, stage.patch_padding)
            for size in (height, width)
        )
        maps.append((height, width, stage.embed_dim))
    return Design(tuple(stages), shape, tuple(maps), classes, norm, token_only)


def _linear(name, inputs, outputs, tokens, computed=None, bias=True) -> Row:
    work = inputs * outputs
    computed = tokens if computed is None else computed
    return Row(name, work + bias * outputs, 0, work * tokens, work * computed)


def _stage_rows(name, stage, height, width, channels, token_only) -> Iterator[Row]:
    dim, token = stage.embed_dim, int(stage.class_token)
    patch = stage.patch_size**2 * channels
    convolution = _linear("", patch, dim, height * width)
    yield Row(
        f"{name}_patch_embed",
        convolution.parameters + 2 * dim,
        0,
        convolution.multiply_adds,
        convolution.multiply_adds,
    )
    if stage.position_embedding:
        size = stage.position_embedding
        rows, columns = (height, width) if size is True else size
        yield Row(f"{name}_pos_embed", rows * columns * dim)
    if token:
        yield Row(f"{name}_cls_token", dim)
    for j, block in enumerate(stage.block_args()):
        only = token_only and j == stage.depth - 1
        yield from _block_rows(f"{name}_blocks_{j}", block, height, width, token, only)


def _block_rows(name, block, height, width, token, token_only) -> Iterator[Row]:
    dim, kernel = block["embed_dim"], block["kernel_size"]
    hidden = int(dim * block["mlp_ratio"])
    area = area_kv = height * width
    convolutions = block["projection"] == "dw_bn"
    if convolutions:
        height_kv, width_kv = (
            conv_output_size(size, kernel, block["strides_kv"], block["padding_kv"])
            for size in (height, width)
        )
        area_kv = height_kv * width_kv
    tokens, tokens_kv = area + token, area_kv + token
    queries = 1 if token_only else tokens

    yield Row(f"{name}/norm1", 2 * dim)
    for letter, places in (("q", area), ("k", area_kv), ("v", area_kv)):
        if convolutions:
            work = kernel**2 * dim
            skipped = token_only and letter == "q"
            yield Row(
                f"{name}/attn/conv_proj_{letter}",
                work + 2 * dim,
                2 * dim,
                work * places,
                0 if skipped else work * places,
            )
    bias = block["use_bias"]
    yield _linear(f"{name}/attn/proj_q", dim, dim, tokens, queries, bias)
    yield _linear(f"{name}/attn/proj_k", dim, dim, tokens_kv, bias=bias)
    yield _linear(f"{name}/attn/proj_v", dim, dim, tokens_kv, bias=bias)
    # Scores and weighted sum: each query meets each key, and each value, over all heads' channels.
    yield Row(f"{name}/attn", 0, 0, 2 * tokens * tokens_kv * dim, 2 * queries * tokens_kv * dim)
    yield _linear(f"{name}/attn/proj", dim, dim, tokens, queries)
    yield Row(f"{name}/norm2", 2 * dim)
    yield _linear(f"{name}/mlp/fc1", dim, hidden, tokens, queries)
    yield _linear(f"{name}/mlp/fc2", hidden, dim, tokens, queries)
