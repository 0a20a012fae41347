"""Every layer, in the combinations of arguments that matter, for tests that hold for all of them."""

import keras
import numpy as np

from keras_cvt import layers

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


# name: (layer class, arguments, channels of the map, with a class token, number of weights)
CASES = {
    "embedding": (layers.ConvEmbedding, {"embed_dim": 8}, 3, False, 4),
    "patches": (
        layers.ConvEmbedding,
        {"embed_dim": 8, "kernel_size": 4, "strides": 4, "padding": 0},
        3,
        False,
        4,
    ),
    "projection": (layers.ConvProjection, {"strides": 2}, 8, False, 5),
    "projection_deployed": (layers.ConvProjection, {"strides": 2, "deployed": True}, 8, False, 2),
    "token": (layers.ClassToken, {}, 8, False, 1),
    "position": (layers.PositionEmbedding, {"size": (5, 6)}, 8, False, 1),
    "mlp": (layers.MLP, {"hidden_dim": 12}, 8, False, 4),
    "class_names": (layers.ClassNames, {"class_names": list("abcdefgh")}, 8, False, 0),
    "image_normalized": (
        layers.ImagePreprocessing,
        {"mean": [0.5] * 8, "std": [0.25] * 8},
        8,
        False,
        0,
    ),
    "image_resized": (
        layers.ImagePreprocessing,
        {"image_size": (6, 8), "mean": [0.5] * 8, "std": [0.25] * 8},
        8,
        False,
        0,
    ),
    "drop_path": (layers.DropPath, {"rate": 0.5, "seed": 1}, 8, False, 0),
    "attention": (layers.ConvProjectionAttention, {"embed_dim": 8, "num_heads": 2}, 8, False, 23),
    "attention_token": (
        layers.ConvProjectionAttention,
        {"embed_dim": 8, "num_heads": 4, "strides_q": 2, "strides_kv": 1},
        8,
        True,
        23,
    ),
    "attention_linear": (
        layers.ConvProjectionAttention,
        {"embed_dim": 8, "num_heads": 2, "projection": "linear", "use_bias": False},
        8,
        True,
        5,
    ),
    "attention_deployed": (
        layers.ConvProjectionAttention,
        {"embed_dim": 8, "num_heads": 2, "strides_kv": 3, "deployed": True},
        8,
        True,
        14,
    ),
    "block": (layers.CvTBlock, {"embed_dim": 8, "num_heads": 2}, 8, False, 31),
    "block_linear": (
        layers.CvTBlock,
        {"embed_dim": 8, "num_heads": 2, "projection": "linear"},
        8,
        True,
        16,
    ),
    "block_deployed": (
        layers.CvTBlock,
        {"embed_dim": 8, "num_heads": 2, "deployed": True},
        8,
        True,
        20,  # the second norm has none
    ),
    "block_recompute": (
        layers.CvTBlock,
        {"embed_dim": 8, "num_heads": 2, "recompute": True},
        8,
        True,
        31,
    ),
    "block_token": (
        layers.CvTBlock,
        {
            "embed_dim": 8,
            "num_heads": 2,
            "mlp_ratio": 2.5,
            "kernel_size": 5,
            "padding_q": 2,
            "padding_kv": 0,
            "dropout": 0.1,
            "attention_dropout": 0.2,
            "drop_path": 0.3,
            "activation": "gelu",
            "kernel_initializer": "glorot_uniform",
        },
        8,
        True,
        31,
    ),
}


def make(case, **options):
    cls, arguments, channels, token, weights = CASES[case]
    return cls(**arguments, **options), channels, token, weights


def inputs_of(channels, token, height=9, width=13):
    x = [normal(2, height, width, channels)]
    return [*x, normal(2, 1, channels)] if token else x


def shapes(outputs):
    return [tuple(x.shape) for x in keras.tree.flatten(outputs)]
