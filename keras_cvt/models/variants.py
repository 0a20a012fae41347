"""The published variants: `CvT13`, `CvT21` and `CvTW24`, in the form of `keras.applications`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_cvt import weights as weights_lib
from keras_cvt.architecture import VARIANTS, variant_named
from keras_cvt.models.cvt import CvT


def CvT13(
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "cvt13",
    *,
    drop_path_rate: float | None = None,
    activation: Any = "quick_gelu",
    recompute: bool = False,
    include_preprocessing: bool = False,
    dtype: Any = None,
) -> keras.Model:
    """Instantiates the CvT-13 architecture: 13 blocks, 20 million parameters.

    Reference:
    - [CvT: Introducing Convolutions to Vision Transformers](https://arxiv.org/abs/2103.15808), Table 2.

    Args:
        include_top: Boolean, whether the model ends in the classifier. Defaults to `True`.
        weights: Name of published weights: `"imagenet"` (224 pixels), `"imagenet-384"` or
            `"imagenet22k-384"` (both 384 pixels); `None` for random weights; or the path of a
            checkpoint of this model in any format that `keras_cvt.checkpoints.read` reads. Defaults to
            `"imagenet"`.
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
        name: String, name of the model; has no effect on which weights load. Defaults to `"cvt13"`.
        drop_path_rate: Float in [0, 1), stochastic depth rate of the last block of the last stage; it
            grows linearly from 0 over the blocks before. Defaults to `None`, the official 0.1.
        activation: Activation of the MLPs. Defaults to `"quick_gelu"`, with which the published weights
            were trained.
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
    model = keras_cvt.CvT13(weights="imagenet")
    image = keras_cvt.load_image("cat.jpg", 224)
    scores = model.predict(keras_cvt.preprocess_input(image[None]))
    keras_cvt.decode_predictions(scores)
    ```
    """
    return _build_variant(
        "CvT13",
        drop_path_rate,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        activation=activation,
        recompute=recompute,
        include_preprocessing=include_preprocessing,
        dtype=dtype,
        name=name,
    )


def CvT21(
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "cvt21",
    *,
    drop_path_rate: float | None = None,
    activation: Any = "quick_gelu",
    recompute: bool = False,
    include_preprocessing: bool = False,
    dtype: Any = None,
) -> keras.Model:
    """Instantiates the CvT-21 architecture: 21 blocks, 32 million parameters.

    Reference:
    - [CvT: Introducing Convolutions to Vision Transformers](https://arxiv.org/abs/2103.15808), Table 2.

    Args:
        include_top: Boolean, whether the model ends in the classifier. Defaults to `True`.
        weights: Name of published weights: `"imagenet"` (224 pixels), `"imagenet-384"` or
            `"imagenet22k-384"` (both 384 pixels); `None` for random weights; or the path of a
            checkpoint of this model in any format that `keras_cvt.checkpoints.read` reads. Defaults to
            `"imagenet"`.
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
        name: String, name of the model; has no effect on which weights load. Defaults to `"cvt21"`.
        drop_path_rate: Float in [0, 1), stochastic depth rate of the last block of the last stage; it
            grows linearly from 0 over the blocks before. Defaults to `None`, the official 0.1.
        activation: Activation of the MLPs. Defaults to `"quick_gelu"`, with which the published weights
            were trained.
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
    model = keras_cvt.CvT21(weights="imagenet")
    image = keras_cvt.load_image("cat.jpg", 224)
    scores = model.predict(keras_cvt.preprocess_input(image[None]))
    keras_cvt.decode_predictions(scores)
    ```
    """
    return _build_variant(
        "CvT21",
        drop_path_rate,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        activation=activation,
        recompute=recompute,
        include_preprocessing=include_preprocessing,
        dtype=dtype,
        name=name,
    )


def CvTW24(
    include_top: bool = True,
    weights: str | os.PathLike | None = "imagenet",
    input_tensor: Any = None,
    input_shape: Sequence[int | None] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "cvtw24",
    *,
    drop_path_rate: float | None = None,
    activation: Any = "quick_gelu",
    recompute: bool = False,
    include_preprocessing: bool = False,
    dtype: Any = None,
) -> keras.Model:
    """Instantiates the CvT-W24 architecture: 24 wide blocks, 277 million parameters.

    Reference:
    - [CvT: Introducing Convolutions to Vision Transformers](https://arxiv.org/abs/2103.15808), Table 2.

    Args:
        include_top: Boolean, whether the model ends in the classifier. Defaults to `True`.
        weights: Name of published weights: `"imagenet22k-384"`, which `"imagenet"` also means
            (384 pixels); `None` for random weights; or the path of a checkpoint of this model in any
            format that `keras_cvt.checkpoints.read` reads. Defaults to `"imagenet"`.
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
        name: String, name of the model; has no effect on which weights load. Defaults to `"cvtw24"`.
        drop_path_rate: Float in [0, 1), stochastic depth rate of the last block of the last stage; it
            grows linearly from 0 over the blocks before. Defaults to `None`, the official 0.3.
        activation: Activation of the MLPs. Defaults to `"quick_gelu"`, with which the published weights
            were trained.
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
    model = keras_cvt.CvTW24(weights="imagenet", input_shape=(384, 384, 3))
    image = keras_cvt.load_image("cat.jpg", 384)
    scores = model.predict(keras_cvt.preprocess_input(image[None]))
    keras_cvt.decode_predictions(scores)
    ```
    """
    return _build_variant(
        "CvTW24",
        drop_path_rate,
        include_top=include_top,
        weights=weights,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        activation=activation,
        recompute=recompute,
        include_preprocessing=include_preprocessing,
        dtype=dtype,
        name=name,
    )


def constructor(name: str) -> Callable[..., keras.Model]:
    """The function that makes a variant.

    Args:
        name: As in `architecture.variant_named`, such as "cvt13".

    Raises:
        ValueError: For another name.
    """
    return {"CvT13": CvT13, "CvT21": CvT21, "CvTW24": CvTW24}[variant_named(name)]


def _build_variant(
    variant: str, drop_path_rate: float | None, weights: str | os.PathLike | None, **options: Any
) -> keras.Model:
    stages = list(VARIANTS[variant])
    if drop_path_rate is not None:
        stages[-1] = dataclasses.replace(stages[-1], drop_path_rate=drop_path_rate)
    return CvT(stages, weights=weights_lib.find(weights, variant), **options)
