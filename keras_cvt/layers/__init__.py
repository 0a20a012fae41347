"""Layers of the Convolutional vision Transformer (CvT; Wu et al. 2021, arXiv:2103.15808).

Images and token maps are (batch, height, width, channels). The class token, where a stage has
one, travels beside the map as (batch, 1, channels); the two become one token sequence only inside
attention, so no layer ever has to guess a height and a width from a token count.

The function, its defaults and its initialization are those of the official `lib/models/cls_cvt.py`,
which differs from the paper in places. Sublayers carry the names of the official checkpoint's keys.
"""

from keras_cvt.layers.activations import get_activation, quick_gelu
from keras_cvt.layers.attention import ConvProjection, ConvProjectionAttention
from keras_cvt.layers.block import MLP, CvTBlock
from keras_cvt.layers.class_names import ClassNames
from keras_cvt.layers.drop_path import DropPath
from keras_cvt.layers.embedding import ClassToken, ConvEmbedding, PositionEmbedding
from keras_cvt.layers.image_preprocessing import ImagePreprocessing

__all__ = [
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
    "get_activation",
    "quick_gelu",
]
