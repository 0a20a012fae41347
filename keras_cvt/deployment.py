"""A trained model -> the same function in fewer operations, for inference.

In each block

- BatchNorm goes into the kernel of the depthwise convolution before it, and into a bias;
- LayerNorm's scale and offset go into the linear maps that follow it. Before a convolution they stay:
  the convolution pads with 0, not with the offset, so its border would come out differently;
- the scale of the attention scores goes into the linear map to the queries;
- QuickGELU, `silu(1.702 x) / 1.702`, leaves its factor to the linear maps around it, and is then SiLU,
  which backends compute in one operation;
- in mixed precision the weights are kept as the operations want them, not cast in every call.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_cvt import layers
from keras_cvt._keras_internal import flatten_layers, graph_of
from keras_cvt.layers.common import BATCH_NORM_EPSILON
from keras_cvt.structure import copy_weights, structure_of, weights_by_path

Arrays = dict[str, np.ndarray]

_OWN_LAYERS = (
    layers.CvTBlock,
    layers.ConvEmbedding,
    layers.ClassToken,
    layers.PositionEmbedding,
)

# Layers that change nothing in inference. Those that begin with "Random" take a call for training if
# they are not told otherwise.
_OF_TRAINING = tuple(
    getattr(keras.layers, name)
    for name in dir(keras.layers)
    if (name.startswith("Random") and name != "RandomCrop")  # which then cuts the center
    or name.endswith("Dropout")
    or name in ("AugMix", "CutMix", "GaussianNoise", "MixUp", "RandAugment")
)


def deploy(model: keras.Model) -> keras.Model:
    """Folds what only training needs into a model's weights, for faster inference.

    Args:
        model: A `keras.Model` made by `CvT13`, `CvT21`, `CvTW24`, `CvT` or `feature_pyramid`, of any
            configuration, input size and dtype policy. Or a functional model around one: what comes
            before the CvT and behind it is copied as it is. The model itself does not change.

    Returns:
        A `keras.Model` that computes what `model(x, training=False)` computes, with weights of its own
        and with the same inputs, outputs and layer names, so that `feature_pyramid` and
        `attention_maps` take it, too. It is not meant to be trained. In float32, the two differ only by
        rounding; weights are folded in float64 and then cast to the dtype in which the layer computes.
        Deploying a deployed model gives an equal model.

    Raises:
        ValueError: If the model has no CvT or more than one, if the CvT is inside a layer that is not
            a functional model, or if its weights are quantized or have LoRA.

    Example:

    ```python
    model = keras.saving.load_model("model.keras")
    deployed = keras_cvt.deploy(model)
    deployed.save("deployed.keras")
    ```
    """
    structure = structure_of(model)
    structure.around()  # says what stands in the way
    for block in (block for stage in structure.stages for block in stage.blocks):
        if any(layer.quantization_mode is not None for layer in flatten_layers(block)):
            raise ValueError(
                f"{block.name} is quantized, and its weights can't be folded. Deploy a model before it "
                "is quantized."
            )
    pairs = []

    def clone(layer: Any) -> Any:
        if (
            graph_of(layer) is not None
        ):  # Keras' `recursive` skips models in a Sequential up to 3.10
            return keras.models.clone_model(layer, clone_function=clone)
        if not isinstance(layer, keras.Layer) or isinstance(layer, keras.layers.Lambda):
            return layer  # a bare operation has no state; Keras does not rebuild a lambda
        config = layer.get_config()
        if isinstance(layer, _OWN_LAYERS):
            config["dtype"] = layer.compute_dtype
        if isinstance(layer, layers.CvTBlock):
            config["deployed"] = True
            config["activation"] = layer.activation  # which need not be one that can be saved
        if isinstance(layer, _OF_TRAINING):
            # Not an Identity, which takes no `training`: Keras repeats the arguments of the calls, and
            # that is one of them where a model for any size is in a model for one size.
            twin = keras.layers.Dropout(0, name=layer.name, dtype=config["dtype"])
        else:
            twin = type(layer).from_config(config)
        pairs.append((layer, twin))
        return twin

    deployed = clone(model)
    for layer, twin in pairs:
        if isinstance(layer, layers.CvTBlock):
            _assign(twin, _fold(layer))
        elif twin.weights:
            copy_weights(layer, twin)
    deployed.trainable = False
    return deployed


def _assign(block: layers.CvTBlock, weights: Arrays) -> None:
    variables = weights_by_path(block)
    if variables.keys() != weights.keys():
        unknown = ", ".join(sorted(variables.keys() ^ weights.keys()))
        raise ValueError(
            f"{block.name} has weights that can't be folded: {unknown}. Deploy a model without LoRA."
        )
    for name, variable in variables.items():
        variable.assign(weights[name])


def _fold(block: layers.CvTBlock) -> Arrays:
    """The weights of the deployed block, by their paths in it."""
    weights = {
        path: keras.ops.convert_to_numpy(variable).astype("float64")
        for path, variable in weights_by_path(block).items()
    }
    if block.deployed:
        return weights
    maps = [f"attn/proj_{letter}" for letter in "qkv"]
    for linear in maps:
        weights.setdefault(f"{linear}/bias", np.zeros(weights[f"{linear}/kernel"].shape[1]))
    if block.attn.projection == "dw_bn":
        for letter in "qkv":
            _fold_batch_norm(weights, f"attn/conv_proj_{letter}")
    else:
        _fold_layer_norm(weights, "norm1", maps)
    _fold_layer_norm(weights, "norm2", ["mlp/fc1"])
    _scale(weights, "attn/proj_q", block.attn.embed_dim**-0.5)
    if block.activation is layers.quick_gelu:
        _scale(weights, "mlp/fc1", 1.702)
        weights["mlp/fc2/kernel"] /= 1.702
    return weights


def _fold_batch_norm(weights: Arrays, projection: str) -> None:
    gamma, beta, mean, variance = (
        weights.pop(f"{projection}/bn/{name}")
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
    weights[f"{projection}/conv/kernel"] *= scale[:, None]  # (height, width, channels, 1)
    weights[f"{projection}/conv/bias"] = beta - mean * scale


def _fold_layer_norm(weights: Arrays, norm: str, followers: list[str]) -> None:
    gamma, beta = (weights.pop(f"{norm}/{name}") for name in ("gamma", "beta"))
    for linear in followers:
        weights[f"{linear}/bias"] += beta @ weights[f"{linear}/kernel"]
        weights[f"{linear}/kernel"] *= gamma[:, None]


def _scale(weights: Arrays, linear: str, factor: float) -> None:
    weights[f"{linear}/kernel"] *= factor
    weights[f"{linear}/bias"] *= factor
