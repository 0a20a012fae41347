"""The optimizers, and which weights they leave alone or do not decay."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

import keras_cvt
from keras_cvt._keras_internal import flatten_layers
from keras_cvt.structure import structure_of
from training import _internal
from training.config import Config
from training.optim.schedules import schedule


def without_decay(model: keras.Model) -> list[keras.Variable]:
    """The weights excluded from weight decay: norms, biases, class token, position embedding.

    These are all weights with one axis, and those of two layers. The depthwise kernels do decay, small
    as they are. Source: official `set_wd` and `no_weight_decay`.
    """
    special = {
        id(weight)
        for layer in flatten_layers(model)
        if isinstance(layer, (keras_cvt.ClassToken, keras_cvt.PositionEmbedding))
        for weight in layer.trainable_weights
    }
    return [w for w in model.trainable_weights if len(w.shape) <= 1 or id(w) in special]


def freeze_without_effect(model: keras.Model) -> None:
    """Freezes the weights that cannot change what a model computes.

    Softmax ignores what is added to the scores of all keys alike: the keys' bias, and the offset of
    the keys' BatchNormalization where no class token is among the keys. Their gradient is zero except
    for rounding errors, which Adam would turn into steps as large as any other: the weights would
    differ between one device and two, to no effect.
    """
    for stage in structure_of(model).stages:
        for block in stage.blocks:
            without_effect = [block.attn.proj_k.bias]
            convolution = block.attn.conv_proj_k
            if convolution is not None and convolution.bn is not None and not stage.class_token:
                without_effect.append(convolution.bn.beta)
            for weight in without_effect:
                if weight is not None:
                    weight.trainable = False


@keras.saving.register_keras_serializable(package="keras_cvt_training")
class AdamW(_internal.ReducedBefore, keras.optimizers.AdamW):
    """AdamW as torch has it, with which the recipe was found.

    Keras' own adds epsilon before it corrects the bias of the moments, which makes the epsilon of the
    first steps up to 32 times as large.
    """

    def update_step(self, gradient, variable, learning_rate):
        mean, square = _internal.adam_moments(self, variable)
        step = ops.cast(self.iterations + 1, variable.dtype)
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (gradient * gradient - square) * (1 - self.beta_2))
        root = ops.sqrt(square / (1 - self.beta_2**step)) + self.epsilon
        self.assign_sub(variable, learning_rate * mean / (1 - self.beta_1**step) / root)


@keras.saving.register_keras_serializable(package="keras_cvt_training")
class SGD(_internal.ReducedBefore, keras.optimizers.SGD):
    """SGD as torch has it.

    Weight decay is added to the gradient, and so to the momentum; and the whole momentum is multiplied
    with the learning rate of the step, where Keras' own has each gradient's learning rate in it.
    """

    def __init__(self, *args, decay: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        if _internal.decays(self, variable):
            gradient = gradient + self.decay * variable
        if self.momentum:
            momentum = _internal.sgd_momentum(self, variable)
            self.assign(momentum, self.momentum * momentum + gradient)
            gradient = gradient + self.momentum * momentum if self.nesterov else momentum
        self.assign_sub(variable, learning_rate * gradient)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "decay": self.decay}


def optimizer(
    config: Config, model: keras.Model, steps_per_epoch: int, scaled: bool = False
) -> keras.Optimizer:
    """The run's optimizer, built; call it in the scope of the run's strategy.

    Args:
        model: The model whose trainable weights it updates.
        scaled: Whether the loss is scaled, and steps are skipped that a too large scale has spoiled:
            for float16. Defaults to False.
    """
    rate = schedule(config, steps_per_epoch)
    asked = config.optimization
    if asked.optimizer == "sgd":
        result = SGD(rate, momentum=asked.momentum, decay=asked.weight_decay, name="sgd")
    else:
        result = AdamW(rate, weight_decay=asked.weight_decay, epsilon=asked.epsilon, name="adamw")
    result.exclude_from_weight_decay(var_list=without_decay(model))
    if scaled:
        # Keras' own name counts these optimizers, and a checkpoint has the name.
        result = keras.optimizers.LossScaleOptimizer(result, name="loss_scale")
    result.build(model.trainable_variables)
    return result
