"""`CvT`: the model of any configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_cvt import layers
from keras_cvt import weights as weights_lib
from keras_cvt._validation import check_int, unknown_choice
from keras_cvt.architecture import StageConfig, as_stages, check_input_size
from keras_cvt.images.preprocessing import MEAN
from keras_cvt.layers import common, initializers

POOLINGS = (None, "avg", "max", "token")


def CvT(
    stages: Sequence[StageConfig | Mapping[str, Any]],
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "cvt",
    *,
    activation: Any = "quick_gelu",
    kernel_initializer: Any = None,
    recompute: bool = False,
    include_preprocessing: bool = False,
    dtype: Any = None,
) -> keras.Model:
    """Instantiates a Convolutional vision Transformer from a list of stages.

    Reference:
    - [CvT: Introducing Convolutions to Vision Transformers](https://arxiv.org/abs/2103.15808),
      section 3 and Table 2; official `ConvolutionalVisionTransformer`.

    Layers are named after the keys of the official checkpoints, with "_" for ".":
    `stage0_patch_embed`, `stage2_cls_token`, `stage2_blocks_9`, `norm`, `head`. `stage0`, `stage1`, ...
    mark the map at the end of each stage, except where the last block computes only the class token.

    Args:
        stages: List of `StageConfig`, or of dicts of their fields.
        include_top: Boolean, whether the model ends in the classifier. Defaults to `True`.
        weights: `None` for random weights, or the path of a checkpoint of this configuration: a
            `.weights.h5` or `.keras` file of this library, or a safetensors or PyTorch file with
            official or Hugging Face names. A `.keras` file states its configuration, and one that
            computes something else is refused; of the other files, only names and shapes can be
            checked. Defaults to `None`.
        input_tensor: Keras tensor (batch, height, width, channels) on which to build the model, such as
            the output of a preprocessing layer. Defaults to `None`, a new input.
        input_shape: Tuple (height, width, channels) of one image. Height and width may be `None`: the
            model then takes images of any size, rectangular ones too. Defaults to `(224, 224, 3)` with
            the classifier and to `(None, None, 3)` without.
        pooling: What a model without the classifier returns. `None`: the map of the last stage, (batch,
            height / 16, width / 16, channels) for the official strides, without the final norm.
            `"avg"`, `"max"`: the pooled map, then the final norm. `"token"`: the class token after the
            final norm, exactly what the classifier reads. The last three are (batch, channels).
            Defaults to `None`.
        classes: Integer, number of classes. Defaults to `1000`.
        classifier_activation: Activation of the classifier, whose output (batch, classes) is float32
            even in mixed precision; `None` returns logits. Defaults to `"softmax"`.
        name: String, name of the model; has no effect on which weights load. Defaults to `"cvt"`.
        activation: Activation of the MLPs. Defaults to `"quick_gelu"`, with which the published weights
            were trained.
        kernel_initializer: Initializer of the linear maps in the blocks. Defaults to `None`, the
            official normal distribution of standard deviation 0.02; `"glorot_uniform"` is the official
            option `INIT: xavier`.
        recompute: Boolean, gradient checkpointing: whether training keeps only the maps between the
            parts of a block, and computes attention and MLP again for their gradients. Needs much less
            memory for large images and about 15 % more time; function and gradients stay the same.
            Dropout rates must be 0; drop path is allowed. Defaults to `False`.
        include_preprocessing: Boolean, whether the model takes pixels from 0 to 255 and preprocesses
            them itself, with a layer `ImagePreprocessing`: images of any size are resized and cropped
            to the height and width of `input_shape`, as `load_image` does it, and normalized. Where
            these are `None`, images keep their size and are only normalized. Do not call
            `preprocess_input` then. Defaults to `False`.
        dtype: Dtype policy of all layers, such as `"mixed_bfloat16"`. Defaults to `None`, the global
            policy of Keras.

    Returns:
        A functional `keras.Model`. Its inputs are float images, preprocessed as for ImageNet (see
        `preprocess_input`), or pixels with `include_preprocessing`. The classifier, and
        `pooling="token"`, read only the class token, so the last block computes nothing else: same
        function and gradients, fewer operations. (With
        `training=False`, the convolution of its queries is not computed, and has no gradient instead of
        a gradient of zeros.) `feature_pyramid(model)` gives the maps of all stages.

    Raises:
        ValueError: If arguments do not fit together. Raised before any weight is created.
        OSError: If weights are missing or can't be downloaded; you never silently get random weights.
            Only a classifier for another number of classes than the file's is initialized anew, with a
            warning in the log.

    Example:

    ```python
    stages = [
        keras_cvt.StageConfig(64, depth=1, num_heads=1, patch_size=7, patch_stride=4, patch_padding=2),
        keras_cvt.StageConfig(128, depth=2, num_heads=2),
        keras_cvt.StageConfig(256, depth=4, num_heads=4, class_token=True),
    ]
    model = keras_cvt.CvT(stages, classes=10, input_shape=(128, 128, 3))
    ```
    """
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
    preprocessing = None
    if include_preprocessing:
        input_shape, preprocessing = _preprocessing(input_shape)
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
        checkpoint.check_fit(
            stages, channels=input_shape[-1], classifier=include_top, activation=activation
        )
        for stage_layers in plan:
            stage_layers.take_position_size(checkpoint)

    if input_tensor is None:
        inputs = x = keras.Input(input_shape, name="images")
    else:
        x = input_tensor
        inputs = keras.utils.get_source_inputs(x)
        inputs = inputs[0] if len(inputs) == 1 else inputs
    if preprocessing is not None:
        x = preprocessing(x)
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


def _preprocessing(
    shape: tuple[int | None, ...],
) -> tuple[tuple[int | None, ...], layers.ImagePreprocessing]:
    """The shape of the pixels that enter a model, and the layer that makes such images of them."""
    *size, channels = shape
    if channels != len(MEAN):
        raise ValueError(
            f"`include_preprocessing` is for RGB images, (height, width, 3). Received {shape}."
        )
    if (size[0] is None) != (size[1] is None):
        raise ValueError(
            "With `include_preprocessing`, height and width are both numbers, to which images are "
            f"resized, or both None. Received {shape}."
        )
    layer = layers.ImagePreprocessing(
        None if None in size else size, dtype="float32", name="preprocessing"
    )
    return (None, None, channels), layer


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
