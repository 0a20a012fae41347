"""A Keras model whose answers are embeddings of images."""

from __future__ import annotations

import keras

from keras_cvt._validation import unknown_choice
from keras_cvt.models.pyramid import feature_pyramid
from keras_cvt.structure import structure_of, with_features


def embedding_model(model: keras.Model, layer: str | None = None) -> keras.Model:
    """The model from images to one vector for each; it shares the layers.

    Args:
        model: A functional model with one CvT in it.
        layer: A level of `feature_pyramid`, such as "P3", whose map is averaged over its positions.
            Defaults to None: what the classifier reads, which is the class token where the model has
            one; of a model without a classifier its output, a map being averaged.

    Returns:
        A `keras.Model` to float32 (batch, channels).

    Raises:
        ValueError: If there is no such level, or the output is not one vector or map.

    Example:

    ```python
    model = keras_cvt.CvT13(weights="imagenet")
    embedding_model(model)(images)  # (batch, 384)
    embedding_model(model, "P3")(images)  # (batch, 192)
    ```
    """
    if layer is not None:
        pyramid = feature_pyramid(model)
        if layer not in pyramid.output:
            raise ValueError(unknown_choice("layer", layer, tuple(pyramid.output)))
        inputs, output = pyramid.inputs, pyramid.output[layer]
    elif structure_of(model).head is not None:
        extended = with_features(model)
        inputs, output = extended.inputs, extended.outputs[1]
    else:
        inputs, output = model.inputs, model.outputs[0] if len(model.outputs) == 1 else None
    rank = None if output is None else len(output.shape)
    if rank == 4:
        output = keras.layers.GlobalAveragePooling2D(dtype="float32")(output)
    elif rank != 2:
        raise ValueError(
            f"{model.name!r} must have a classifier, or one output that is a vector or a map for each "
            f"image. It has {[tuple(each.shape) for each in model.outputs]}. A level of its pyramid "
            "can be chosen: layer='P3'."
        )
    output = keras.layers.Activation("linear", dtype="float32", name="embedding")(output)
    return keras.Model(inputs[0], output, name=model.name)
