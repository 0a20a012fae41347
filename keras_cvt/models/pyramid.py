"""The maps of a CvT's stages as a feature pyramid."""

from __future__ import annotations

import math

import keras

from keras_cvt.structure import structure_of


def feature_pyramid(model: keras.Model) -> keras.Model:
    """Returns the maps of all stages of a model, for detection and segmentation.

    Args:
        model: A CvT, with the classifier or without; or a functional model with a CvT in it.

    Returns:
        A `keras.Model` from the same inputs to a dict of maps (batch, height / s, width / s, channels),
        named after the binary logarithm of their stride s: for the official models `"P2"` (stride 4),
        `"P3"` (stride 8) and `"P4"` (stride 16). Of several stages with the same stride, it has the
        last one's map. It shares the weights of `model`.

    Raises:
        ValueError: If the model has no CvT or more than one, or if a stride is not a power of two.

    Example:

    ```python
    backbone = keras_cvt.CvT13(include_top=False, weights="imagenet")
    maps = keras_cvt.feature_pyramid(backbone)(images)
    ```
    """
    structure = structure_of(model)
    around = structure.around()
    outputs, stride = {}, 1
    for i, stage in enumerate(structure.stages):
        stride *= stage.embedding.strides
        if stride & (stride - 1):
            raise ValueError(
                f"A pyramid's levels are powers of two; stage {i} has stride {stride}. Its map is "
                f'`model.get_layer("stage{i}").output`.'
            )
        output = stage.map
        if (
            output is None
        ):  # the last block computes only the class token: called again, its map too
            output = stage.blocks[-1](*stage.inputs[-1])[0]
        outputs[f"P{int(math.log2(stride))}"] = output
    pyramid = keras.Model(structure.graph.input, outputs, name=f"{model.name}_pyramid")
    for graph, entering in reversed(around):
        pyramid = keras.Model(graph.input, pyramid(entering), name=pyramid.name)
    return pyramid
