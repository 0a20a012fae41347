"""CvT, the Convolutional vision Transformer (Wu et al. 2021), for Keras 3."""

from typing import TYPE_CHECKING

from keras_cvt import _lazy

if TYPE_CHECKING:
    from keras_cvt import checkpoints, export, imagenet, weights
    from keras_cvt.analysis.attention import AttentionMaps, attention_maps, plot_attention
    from keras_cvt.analysis.complexity import complexity
    from keras_cvt.analysis.diagram import draw
    from keras_cvt.architecture import StageConfig, stages_from_spec
    from keras_cvt.classes import class_names, with_class_names
    from keras_cvt.deployment import deploy
    from keras_cvt.imagenet import decode_predictions, load_image, preprocess_input
    from keras_cvt.layers import (
        MLP,
        ClassNames,
        ClassToken,
        ConvEmbedding,
        ConvProjection,
        ConvProjectionAttention,
        CvTBlock,
        DropPath,
        ImagePreprocessing,
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
    "ClassNames",
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
    "ImagePreprocessing",
    "PositionEmbedding",
    "StageConfig",
    "attention_maps",
    "checkpoints",
    "class_names",
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
    "with_class_names",
]

# Importing this package does not import Keras, so command lines are answered at once.
__getattr__, __dir__ = _lazy.attach(
    __name__,
    {
        "analysis.attention": ("AttentionMaps", "attention_maps", "plot_attention"),
        "analysis.complexity": ("complexity",),
        "analysis.diagram": ("draw",),
        "architecture": ("StageConfig", "stages_from_spec"),
        "classes": ("class_names", "with_class_names"),
        "deployment": ("deploy",),
        "imagenet": ("decode_predictions", "load_image", "preprocess_input"),
        "layers": (
            "MLP",
            "ClassNames",
            "ClassToken",
            "ConvEmbedding",
            "ConvProjection",
            "ConvProjectionAttention",
            "CvTBlock",
            "DropPath",
            "ImagePreprocessing",
            "PositionEmbedding",
            "quick_gelu",
        ),
        "models": ("CvT", "CvT13", "CvT21", "CvTW24", "feature_pyramid"),
    },
    ("checkpoints", "export", "imagenet", "weights"),
)
# But `keras.saving.load_model` knows the layers after `import keras_cvt`, whichever comes first.
_lazy.with_keras("keras_cvt.layers")
