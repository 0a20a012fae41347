"""CvT models: `CvT()` for any configuration, and `CvT13`, `CvT21`, `CvTW24`.

A model is a plain functional Keras model. Its layers are named after the official checkpoint's keys,
with "_" for ".": `stage0_patch_embed`, `stage2_cls_token`, `stage2_blocks_9`, `norm`, `head`. Besides,
`stage0`, `stage1`, `stage2` mark the map at the end of each stage, the last of them only where it is
computed: in a classifier it is not, and `feature_pyramid` adds it.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_cvt import layers
from keras_cvt import weights as weights_lib
from keras_cvt._validation import check_int
from keras_cvt.architecture import (
    VARIANTS,
    StageConfig,
    as_stages,
    check_input_size,
    unknown_choice,
)
from keras_cvt.layers import common, initializers
from keras_cvt.structure import stage_configs

POOLINGS = (None, "avg", "max", "token")

_ARGUMENTS = """
        input_tensor: a Keras tensor (batch, height, width, channels) to build the model on, or None.
        input_shape: (height, width, channels). Height and width may be None: images of any size,
            rectangles too. The default is (224, 224, 3) with the classifier, (None, None, 3) without.
            Images are float RGB preprocessed as for ImageNet: (x / 255 - mean) / deviation.
        pooling: what a model without the classifier returns. None: the last stage's map
            (batch, height / 16, width / 16, channels), without norm. "avg", "max": the map pooled,
            then the final norm. "token": the class token after the final norm, exactly what the
            classifier sees. The last three are (batch, channels).
        classes: number of classes.
        classifier_activation: of the classifier; None gives logits. Its output is (batch, classes),
            and float32 also in mixed precision.
        activation: of the MLPs. The published weights were trained with "quick_gelu".
        recompute: whether training keeps only the maps between the parts of a block, and calculates
            the attention and the MLP again for their gradients: much less memory for large images, and
            about 15 % more time. The same function and gradients. Without dropout only; drop path
            is no matter.
        dtype: dtype policy of all layers, such as "mixed_bfloat16"; None is Keras' global policy.
        name: of the model. It decides nothing.

    Returns:
        A functional `keras.Model`. With the classifier, and with `pooling="token"`, its last block
        computes only the class token: the same function and gradients, with fewer operations. (With
        `training=False`, where nothing but inference is expected, its queries' convolution is not
        computed, and has no gradient instead of one of zeros.)
        `feature_pyramid(model)` gives the maps of all stages.

    Raises:
        ValueError: for arguments that do not fit together, before any weight is made.
        OSError: if weights are not there or can't be downloaded. A model is never returned with
            random weights instead; but of a file for another number of classes all is loaded except
            the classifier, which is new (a warning is logged).
"""


def CvT(
    stages: Sequence[StageConfig | Mapping[str, Any]],
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    activation: Any = "quick_gelu",
    kernel_initializer: Any = None,
    recompute: bool = False,
    dtype: Any = None,
    name: str = "cvt",
) -> keras.Model:
    stages = as_stages(stages)
    if pooling not in POOLINGS:
        raise ValueError(unknown_choice("pooling", pooling, POOLINGS))
    if include_top and pooling is not None:
        raise ValueError(
            f"pooling={pooling!r} needs include_top=False: the classifier has its own."
        )
    if pooling == "token" and not stages[-1].class_token:
        raise ValueError('pooling="token" needs a class token in the last stage.')
    classes = check_int("classes", classes, 1)
    if input_tensor is None:
        input_shape = _input_shape(input_shape, default_size=224 if include_top else None)
    else:
        input_shape = _shape_of(input_tensor, input_shape)
    check_input_size(stages, input_shape)
    source = weights_lib.find(weights)

    # All layers before any weight: their constructors know what is wrong with a configuration.
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    plan = [
        _StageLayers(i, stage, activation, kernel_initializer, recompute, policy)
        for i, stage in enumerate(stages)
    ]
    norm = keras.layers.LayerNormalization(
        epsilon=common.LAYER_NORM_EPSILON, dtype=policy, name="norm"
    )
    head = keras.layers.Dense(
        classes,
        activation=classifier_activation,
        kernel_initializer=initializers.linear_initializer(),
        bias_initializer=initializers.torch_uniform(stages[-1].embed_dim),
        dtype=common.at_least_float32(policy.compute_dtype),
        name="head",
    )

    # Weights last of what can go wrong: they may be a download of a gigabyte.
    checkpoint = None
    if source is not None:
        checkpoint = weights_lib.open_weights(source, channels=input_shape[-1])
        checkpoint.check_fit(stages, channels=input_shape[-1], classifier=include_top)
        for stage_layers in plan:
            stage_layers.take_position_size(checkpoint)

    if input_tensor is None:
        inputs = x = keras.Input(input_shape, name="images")
    else:
        x = input_tensor
        inputs = keras.utils.get_source_inputs(x)
        inputs = inputs[0] if len(inputs) == 1 else inputs
    token_only = stages[-1].class_token and (include_top or pooling == "token")
    for i, stage_layers in enumerate(plan):
        x, token = stage_layers(x, token_only=token_only and i == len(plan) - 1)

    if token_only:
        x = norm(keras.layers.Flatten(dtype=policy, name="class_token")(token))
    elif include_top:
        x = keras.layers.GlobalAveragePooling2D(
            data_format="channels_last", dtype=policy, name="avg_pool"
        )(norm(x))
    elif pooling is not None:
        pool = {
            "avg": keras.layers.GlobalAveragePooling2D,
            "max": keras.layers.GlobalMaxPooling2D,
        }[pooling]
        x = norm(pool(data_format="channels_last", dtype=policy, name=f"{pooling}_pool")(x))
    model = keras.Model(inputs, head(x) if include_top else x, name=name)
    if checkpoint is not None:
        checkpoint.load(model)
    return model


CvT.__doc__ = f"""Builds a Convolutional vision Transformer from a list of stages.

    Args:
        stages: `StageConfig`s, or dicts of their fields.
        include_top: whether the model ends in the classifier.
        weights: None for random ones, or the path of a checkpoint of this configuration: a
            `.weights.h5` or `.keras` file of this library, or safetensors or a torch checkpoint with
            official or Hugging Face's names.
        kernel_initializer: of the blocks' linear maps; None is the official normal distribution of
            deviation 0.02, "glorot_uniform" the official option `INIT: xavier`.{_ARGUMENTS}
    Source: official `ConvolutionalVisionTransformer`; paper, section 3 and Table 2.
    """


class _StageLayers:
    """The layers of one stage, and how they are connected."""

    def __init__(self, index, stage, activation, kernel_initializer, recompute, policy):
        self.prefix = prefix = f"stage{index}"
        self.policy = policy
        self.embed = [
            layers.ConvEmbedding(
                stage.embed_dim,
                kernel_size=stage.patch_size,
                strides=stage.patch_stride,
                padding=stage.patch_padding,
                dtype=policy,
                name=f"{prefix}_patch_embed",
            )
        ]
        self.token = []
        if stage.position_embedding:
            size = None if stage.position_embedding is True else stage.position_embedding
            self.embed.append(
                layers.PositionEmbedding(size, dtype=policy, name=f"{prefix}_pos_embed")
            )
        if stage.class_token:
            self.token.append(layers.ClassToken(dtype=policy, name=f"{prefix}_cls_token"))
        if stage.drop_rate:
            for chain, name in ((self.embed, "pos_drop"), (self.token, "cls_drop")):
                if chain:
                    chain.append(
                        keras.layers.Dropout(stage.drop_rate, dtype=policy, name=f"{prefix}_{name}")
                    )
        try:
            self.blocks = [
                layers.CvTBlock(
                    **args,
                    activation=activation,
                    kernel_initializer=kernel_initializer,
                    recompute=recompute,
                    dtype=policy,
                    name=f"{prefix}_blocks_{j}",
                )
                for j, args in enumerate(stage.block_args())
            ]
        except ValueError as error:
            raise ValueError(f"Stage {index}: {error}") from error

    def take_position_size(self, checkpoint):
        """A position embedding has the size of its weights, and is resized to the images'."""
        key = f"{self.prefix}.pos_embed"
        for layer in self.embed:
            if isinstance(layer, layers.PositionEmbedding) and key in checkpoint:
                layer.size = checkpoint.shape(key)[1:3]

    def __call__(self, x, token_only):
        """Returns (map, class token), of which one may be None."""
        for layer in self.embed:
            x = layer(x)
        token = x if self.token else None
        for layer in self.token:
            token = layer(token)
        for j, block in enumerate(self.blocks):
            if token is None:
                x = block(x)
            elif token_only and j == len(self.blocks) - 1:
                return None, block(x, class_token=token, class_token_only=True)
            else:
                x, token = block(x, class_token=token)
        return keras.layers.Identity(dtype=self.policy.name, name=self.prefix)(x), token


def _constructor(variant: str, summary: str):
    """The constructor of one variant, in the form of `keras.applications`."""

    def constructor(
        include_top: bool = True,
        weights: str | os.PathLike | None = "imagenet",
        input_tensor: Any = None,
        input_shape: Sequence[int | None] | None = None,
        pooling: str | None = None,
        classes: int = 1000,
        classifier_activation: Any = "softmax",
        drop_path_rate: float | None = None,
        activation: Any = "quick_gelu",
        recompute: bool = False,
        dtype: Any = None,
        name: str = variant.lower(),
    ) -> keras.Model:
        stages = list(VARIANTS[variant])
        if drop_path_rate is not None:
            stages[-1] = dataclasses.replace(stages[-1], drop_path_rate=drop_path_rate)
        return CvT(
            stages,
            include_top=include_top,
            weights=weights_lib.find(weights, variant),
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            activation=activation,
            recompute=recompute,
            dtype=dtype,
            name=name,
        )

    constructor.__name__ = constructor.__qualname__ = variant
    constructor.__doc__ = f"""{summary}

    Args:
        include_top: whether the model ends in the classifier.
        weights: {weights_lib.names_of(variant)}; None for random ones; or the path of a checkpoint
            of this model, in any format that `keras_cvt.checkpoints.read` reads. With another number
            of classes than the weights', the classifier is new, and the log says so.
        drop_path_rate: of the last stage's last block; the blocks before grow to it linearly from 0.
            None is the official {VARIANTS[variant][-1].drop_path_rate}.{_ARGUMENTS}
    Source: paper, Table 2.
    """
    return constructor


CvT13 = _constructor("CvT13", "CvT-13: 20 million parameters, 13 blocks.")

CvT21 = _constructor("CvT21", "CvT-21: 32 million parameters, 21 blocks.")

CvTW24 = _constructor("CvTW24", "CvT-W24: 277 million parameters, 24 wide blocks.")


def feature_pyramid(model: keras.Model) -> keras.Model:
    """The maps of all stages, for detection and segmentation.

    Args:
        model: made by `CvT13`, `CvT21`, `CvTW24` or `CvT`, with the classifier or without.

    Returns:
        A model from the same images to a dict of maps (batch, height / s, width / s, channels), named
        after the binary logarithm of their stride s: for the official models "P2" (stride 4), "P3"
        (stride 8) and "P4" (stride 16). Of several stages of one stride it is the last one's map. It
        shares the weights of `model`.

    Raises:
        ValueError: for a model not made here, or a stride that is no power of two.
    """
    outputs, stride = {}, 1
    stages = stage_configs(model)
    for i, stage in enumerate(stages):
        stride *= stage.patch_stride
        if stride & (stride - 1):
            raise ValueError(
                f"A pyramid's levels are powers of two; stage {i} has stride {stride}. Its map is "
                f'`model.get_layer("stage{i}").output`.'
            )
        blocks = [f"stage{i}_blocks_{j}" for j in range(stage.depth)]
        last = model.get_layer(blocks[-1])
        output = last.output
        if stage.class_token:
            # The first call may have computed the class token alone.
            output = last(*last.input)[0]
        outputs[f"P{int(math.log2(stride))}"] = output
    return keras.Model(model.input, outputs, name=f"{model.name}_pyramid")


def _input_shape(
    shape: Sequence[int | None] | None, default_size: int | None
) -> tuple[int | None, ...]:
    if shape is None:
        return (default_size, default_size, 3)
    shape = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if len(shape) != 3 or not all(size is None or size >= 1 for size in shape):
        raise ValueError(
            "`input_shape` must be (height, width, channels), where height and width may be None. "
            f"Received {shape}."
        )
    if shape[-1] is None:
        raise ValueError(f"`input_shape` must say the number of channels. Received {shape}.")
    if shape[0] in (1, 3) and shape[-1] not in (1, 3):
        raise ValueError(
            f"`input_shape` is (height, width, channels). {shape} looks like channels first."
        )
    return shape


def _shape_of(tensor: Any, shape: Sequence[int | None] | None) -> tuple[int | None, ...]:
    if not isinstance(tensor, keras.KerasTensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, such as `keras.Input(...)` or the output of a "
            f"layer. Received {type(tensor).__name__}."
        )
    if not keras.backend.is_float_dtype(tensor.dtype):
        raise ValueError(
            f"`input_tensor` must be floating point, not {tensor.dtype}. Cast it first."
        )
    if len(tensor.shape) != 4:
        raise ValueError(
            "`input_tensor` must have the shape (batch, height, width, channels). Received "
            f"{tuple(tensor.shape)}."
        )
    found = tuple(tensor.shape[1:])
    if shape is not None and tuple(shape) != found:
        raise ValueError(
            f"`input_shape` {tuple(shape)} is not the shape of `input_tensor`, {found}. Leave it out."
        )
    return _input_shape(found, None)
