"""What a model is made of, read from its layers."""

from __future__ import annotations

import re

import keras

from keras_cvt.architecture import StageConfig


def stage_configs(model: keras.Model) -> list[StageConfig]:
    """The configuration of a model that `CvT` built, read from its layers.

    Raises:
        ValueError: for another model.
    """
    found = {layer.name: layer for layer in model.layers}
    stages = []
    while (embedding := found.get(f"stage{len(stages)}_patch_embed")) is not None:
        prefix = f"stage{len(stages)}_"
        position = found.get(prefix + "pos_embed")
        blocks = sorted(
            (int(match[1]), layer)
            for name, layer in found.items()
            if (match := re.fullmatch(prefix + r"blocks_(\d+)", name))
        )
        stages.append(
            StageConfig.from_layers(
                embedding,
                [block for _, block in blocks],
                class_token=prefix + "cls_token" in found,
                position_embedding=False if position is None else position.size,
            )
        )
    if not stages:
        raise ValueError(
            f"Expected a model made by keras_cvt (CvT13, CvT21, CvTW24 or CvT). {model.name!r} has no "
            "layer stage0_patch_embed; a CvT inside another model is got by `get_layer`."
        )
    return stages
