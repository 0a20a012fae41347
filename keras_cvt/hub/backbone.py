"""A CvT as a backbone of KerasHub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras_hub.models import FeaturePyramidBackbone

from keras_cvt import models
from keras_cvt.architecture import VARIANTS, StageConfig, as_stages, stages_to_json, variant_named
from keras_cvt.layers import get_activation
from keras_cvt.layers.common import serializable


@serializable
class CvTBackbone(FeaturePyramidBackbone):
    """The Convolutional vision Transformer as a backbone of KerasHub.

    Function and weights are those of `keras_cvt.CvT`. The output is the map of the last stage after
    the final norm, (batch, height / 16, width / 16, channels) for the official strides.
    `pyramid_outputs` are the maps of all stages, as `keras_cvt.feature_pyramid` gives them: "P2", "P3"
    and "P4" for the official models.

    Args:
        stages: Name of a variant, such as `"cvt13"`; or list of `keras_cvt.StageConfig`, or of dicts of
            their fields.
        image_shape: Tuple (height, width, channels) of one image. Height and width may be `None`: any
            size, rectangles too. Defaults to `(None, None, 3)`.
        activation: Activation of the MLPs. Defaults to `"quick_gelu"`, with which the published weights
            were trained.
        recompute: Boolean, gradient checkpointing, as in `keras_cvt.CvT`. Defaults to `False`.
        dtype: Dtype policy of all layers. Defaults to `None`, the global policy of Keras.
        **kwargs: Of `keras_hub.models.Backbone`: `name`, `trainable`.

    Attributes:
        features: Keras tensor (batch, channels), what the official classifier reads: the class token
            after the final norm, or the mean of the output where there is no class token.

    Raises:
        ValueError: If arguments do not fit together, or if a stride is not a power of two.

    Example:

    ```python
    backbone = keras_cvt.hub.CvTBackbone.from_preset("cvt13_imagenet")
    pyramid = keras.Model(backbone.input, backbone.pyramid_outputs)
    ```
    """

    def __init__(
        self,
        stages: str | Sequence[StageConfig | Mapping[str, Any]],
        image_shape: Sequence[int | None] = (None, None, 3),
        activation: Any = "quick_gelu",
        recompute: bool = False,
        dtype: Any = None,
        **kwargs: Any,
    ):
        if isinstance(stages, str):
            stages = VARIANTS[variant_named(stages)]
        stages = as_stages(stages)
        token = stages[-1].class_token
        model = models.CvT(
            stages,
            include_top=False,
            pooling="token" if token else "avg",  # both bring the final norm
            input_shape=image_shape,
            activation=activation,
            recompute=recompute,
            dtype=dtype,
        )
        pyramid = models.feature_pyramid(model).output
        norm = model.get_layer("norm")
        output = norm(pyramid[max(pyramid, key=lambda level: int(level[1:]))])
        kwargs.setdefault("name", "cvt_backbone")
        super().__init__(inputs=model.input, outputs=output, dtype=dtype, **kwargs)
        self.pyramid_outputs = pyramid
        self.features = (
            model.output
            if token
            else keras.layers.GlobalAveragePooling2D(
                data_format="channels_last", dtype=norm.dtype_policy, name="avg_pool"
            )(output)
        )
        self.stages = tuple(stages)
        self.image_shape = tuple(image_shape)
        self.activation = activation
        self.recompute = recompute

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "stages": stages_to_json(self.stages),
            "image_shape": self.image_shape,
            "activation": keras.activations.serialize(get_activation(self.activation)),
            "recompute": self.recompute,
        }
