"""A CvT as an image classifier of KerasHub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras_hub.models import ImageClassifier, Task

from keras_cvt.hub.backbone import CvTBackbone
from keras_cvt.hub.preprocessing import CvTImageClassifierPreprocessor
from keras_cvt.layers import ClassNames, common, initializers
from keras_cvt.layers.common import serializable


@serializable
class CvTImageClassifier(ImageClassifier):
    """CvT image classification task: raw images in, `fit` and `predict` with preprocessing inside.

    The classifier is that of the official model: a linear layer on the class token after the final
    norm, or on the mean of the normalized map where there is no class token.

    Args:
        backbone: A `CvTBackbone`.
        num_classes: Integer, number of classes.
        preprocessor: A `CvTImageClassifierPreprocessor`, another layer or callable, or `None`: images
            then have to be preprocessed. Defaults to `None`.
        pooling: What the classifier reads. `"official"`: as above; `"avg"`, `"max"`: the pooled output
            of the backbone. Defaults to `"official"`.
        activation: Activation of the classifier, such as `"softmax"`. Defaults to `None`, logits.
        dropout: Float in [0, 1), dropout rate before the classifier. Defaults to `0.0`.
        head_dtype: Dtype policy of the classifier. Defaults to `None`: float32 even in mixed precision.
        class_names: The name of each class, in the order of the outputs. Defaults to `None`.
        **kwargs: Of `keras_hub.models.Task`: `name`, `compile`.

    Raises:
        ValueError: If arguments do not fit together.

    Example:

    ```python
    classifier = keras_cvt.hub.CvTImageClassifier.from_preset("cvt13_imagenet", num_classes=37)
    classifier.fit(images, labels)  # uint8 images of any one size
    classifier.save_to_preset("pets")
    ```
    """

    backbone_cls = CvTBackbone
    preprocessor_cls = CvTImageClassifierPreprocessor

    def __init__(
        self,
        backbone: CvTBackbone,
        num_classes: int,
        preprocessor: Any = None,
        pooling: str = "official",
        activation: Any = None,
        dropout: float = 0.0,
        head_dtype: Any = None,
        class_names: Sequence[str] | None = None,
        **kwargs: Any,
    ):
        policy = backbone.dtype_policy
        head_dtype = head_dtype or common.at_least_float32(policy.compute_dtype)
        if pooling == "official":
            x = backbone.features
        elif pooling in ("avg", "max"):
            kind = {
                "avg": keras.layers.GlobalAveragePooling2D,
                "max": keras.layers.GlobalMaxPooling2D,
            }[pooling]
            x = kind("channels_last", dtype=head_dtype, name="pooler")(backbone.output)
        else:
            raise ValueError(f'`pooling` must be "official", "avg" or "max". Received {pooling!r}.')
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"There must be a name for each of the {num_classes} classes. Received "
                f"{len(class_names)} names."
            )
        self.backbone = backbone
        self.preprocessor = preprocessor
        self.output_dropout = keras.layers.Dropout(dropout, dtype=head_dtype, name="output_dropout")
        self.output_dense = keras.layers.Dense(
            num_classes,
            activation=activation,
            kernel_initializer=initializers.linear_initializer(),
            bias_initializer=initializers.torch_uniform(x.shape[-1]),
            dtype=head_dtype,
            name="predictions",
        )
        x = self.output_dense(self.output_dropout(x))
        if class_names is not None:
            x = ClassNames(class_names, dtype=head_dtype, name="class_names")(x)
        kwargs.setdefault("name", "cvt_image_classifier")
        # Not ImageClassifier's own graph, which pools.
        Task.__init__(self, inputs=backbone.input, outputs=x, **kwargs)
        self.num_classes = num_classes
        self.pooling = pooling
        self.activation = activation
        self.dropout = dropout
        self.class_names = None if class_names is None else tuple(class_names)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        activation = self.activation
        if callable(activation):
            activation = keras.activations.serialize(activation)
        names = None if self.class_names is None else list(self.class_names)
        return {**config, "activation": activation, "class_names": names}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CvTImageClassifier:
        # `from_preset(num_classes=...)` makes another classifier of a preset, with other classes.
        names = config.get("class_names")
        if names is not None and len(names) != config["num_classes"]:
            config = {**config, "class_names": None}
        return super().from_config(config)
