"""Small CvTs, of every kind that `CvT()` builds, for tests that hold for all of them."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
from backend import floats

import keras_cvt
from keras_cvt.architecture import VARIANTS, StageConfig

CLASSES = 5

# Three stages that are enough for most tests, and quick on all backends.
TINY = (
    StageConfig(8, 1, 1, patch_size=7, patch_stride=4, patch_padding=2),
    StageConfig(12, 1, 3),
    StageConfig(16, 2, 2, class_token=True, drop_path_rate=0.1),
)


def tiny(stages=TINY, **options) -> keras.Model:
    """A new model, for images of any size."""
    return keras_cvt.CvT(stages, **{"classes": CLASSES, "input_shape": (None, None, 3), **options})


def shrunken(variant: str) -> tuple[StageConfig, ...]:
    """A variant with one block a stage and four channels a head; two blocks in the last stage."""
    stages = VARIANTS[variant]
    return tuple(
        dataclasses.replace(
            stage, embed_dim=4 * stage.num_heads, depth=2 if stage is stages[-1] else 1
        )
        for stage in stages
    )


def changed(*positions: int, **options) -> tuple[StageConfig, ...]:
    """The shrunken CvT-13 with other options in some of its stages, or in all if none is named."""
    return tuple(
        dataclasses.replace(stage, **options) if i in positions or not positions else stage
        for i, stage in enumerate(shrunken("CvT13"))
    )


SIZE = (48, 80)  # of images where a model must know it
# name: arguments of CvT
MODELS = {
    "CvT13": {"stages": shrunken("CvT13")},
    "CvTW24": {"stages": shrunken("CvTW24")},
    # The paper's tables 5 to 8, and CvT-13-NAS
    "position embeddings": {"stages": changed(position_embedding=True), "input_shape": (*SIZE, 3)},
    "patches": {
        "stages": (
            *changed(patch_size=4, patch_stride=4, patch_padding=0)[:1],
            *changed(patch_size=2, patch_stride=2, patch_padding=0)[1:],
        )
    },
    "strides": {"stages": changed(stride_kv=1)},
    "linear": {"stages": changed(projection="linear", qkv_bias=False)},
    "searched": {"stages": changed(2, mlp_ratio=(2, 3.5), stride_kv=(2, 1))},
    # What else a stage may have, and may lack
    "kernels": {
        "stages": changed(
            kernel_qkv=5, padding_q=2, padding_kv=1, stride_kv=3, position_embedding=(5, 4)
        )
    },
    "class tokens": {
        "stages": changed(class_token=True, drop_rate=0.1, attention_drop_rate=0.1, qkv_bias=False)
    },
    "no class token": {"stages": changed(class_token=False)},
    "one stage": {"stages": shrunken("CvT13")[2:], "recompute": True},
    # Arguments of the model
    "grey": {
        "stages": shrunken("CvT13"),
        "input_shape": (None, SIZE[1], 1),
        "classifier_activation": None,
        "activation": "gelu",
    },
    **{
        str(pooling): {"stages": shrunken("CvT13"), "include_top": False, "pooling": pooling}
        for pooling in (None, "avg", "max", "token")
    },
}


def build(stages, trained: bool = True, **options) -> keras.Model:
    """A model of `CLASSES` classes for images of any size.

    Args:
        stages: As `CvT` takes them.
        trained: Whether its weights are such as no new model has.
        options: Of `CvT`.
    """
    keras.utils.set_random_seed(0)
    model = tiny(stages, **options)
    rng = np.random.default_rng(1)
    for weight in model.weights if trained else ():
        noise = rng.normal(size=weight.shape)
        if weight.path.endswith("moving_variance"):
            weight.assign(np.exp(noise))
        elif "seed" not in weight.path:
            weight.assign(floats(weight) + 0.1 * noise)
    return model


def images(
    height: int = SIZE[0], width: int = SIZE[1], channels: int = 3, batch: int = 2
) -> np.ndarray:
    shape = (batch, height, width, channels)
    return np.random.default_rng(0).normal(size=shape).astype("float32")
