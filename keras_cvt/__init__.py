"""CvT, the Convolutional vision Transformer (Wu et al. 2021), for Keras 3."""

from typing import TYPE_CHECKING, Any

from keras_cvt import _lazy

if TYPE_CHECKING:
    from keras_cvt import checkpoints, export, imagenet, weights
    from keras_cvt.analysis.attention import AttentionMaps, attention_maps, plot_attention
    from keras_cvt.analysis.complexity import complexity
    from keras_cvt.analysis.diagram import draw
    from keras_cvt.architecture import StageConfig, stages_from_spec
    from keras_cvt.deployment import deploy
    from keras_cvt.imagenet import decode_predictions, load_image, preprocess_input
    from keras_cvt.layers import (
        MLP,
        ClassToken,
        ConvEmbedding,
        ConvProjection,
        ConvProjectionAttention,
        CvTBlock,
        DropPath,
        PositionEmbedding,
        quick_gelu,
    )
    from keras_cvt.models import (
        CvT,
        CvT13,
        CvT21,
        CvTW24,
        feature_pyramid,
    )

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "AttentionMaps",
    "ClassToken",
    "ConvEmbedding",
    "ConvProjection",
    "ConvProjectionAttention",
    "CvT",
    "CvT13",
    "CvT21",
    "CvTBlock",
    "CvTW24",
    "DropPath",
    "PositionEmbedding",
    "StageConfig",
    "attention_maps",
    "checkpoints",
    "complexity",
    "decode_predictions",
    "deploy",
    "draw",
    "export",
    "feature_pyramid",
    "imagenet",
    "load_image",
    "plot_attention",
    "preprocess_input",
    "quick_gelu",
    "stages_from_spec",
    "weights",
]

# Keras takes seconds to import, so what is above is imported when it is first asked for: command
# lines are answered at once. The layers are there for `keras.saving.load_model` all the same.
_lazy.with_keras("keras_cvt.layers")


def __getattr__(name: str) -> Any:
    value = _lazy.load(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
