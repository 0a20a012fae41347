"""The optimizers, the learning rate over time, and which weights are treated in another way."""

from __future__ import annotations

import math
import re
from typing import Any

import keras
from keras import ops

import keras_cvt
from keras_cvt.models import stage_configs
from training.config import Config, ConfigError
from training.distribute import every_layer


@keras.saving.register_keras_serializable(package="keras_cvt_training")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that grows linearly, falls along half a cosine, and then stays.

    The cosine begins at step 0, not after the growth, as in timm's `CosineLRScheduler`: growth just
    hides its beginning. With `hold` equal to the steps of an epoch this is the official code's
    schedule, which changes the rate between epochs. In a notebook:

        rate = WarmupCosine(1e-3, total_steps=epochs * steps, warmup_steps=5 * steps)
        model.compile(optimizer=keras.optimizers.AdamW(rate), loss=...)

    Args:
        peak: to which the growth leads.
        total_steps: the step at which `final` is reached, and kept from then on.
        warmup_steps: steps of growth; with 0 the first step has the peak.
        initial: at step 0 of the growth.
        final: the lowest, at the end.
        hold: so many successive steps have one learning rate, that of the first of them.

    Call arguments:
        step: how many steps have been done before this one; an integer scalar.

    Returns:
        A float32 scalar.
    """

    def __init__(
        self,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        initial: float = 0.0,
        final: float = 0.0,
        hold: int = 1,
    ):
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                "`warmup_steps` must be at least 0 and less than `total_steps`. Received "
                f"warmup_steps={warmup_steps}, total_steps={total_steps}."
            )
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.initial = initial
        self.final = final
        self.hold = hold

    def __call__(self, step: Any) -> Any:
        # Integers first: a float32 counts only to 2**24.
        step = ops.cast(step, "int64")
        step = ops.cast(step - step % self.hold, "float32")
        growth = self.initial + (self.peak - self.initial) * step / max(self.warmup_steps, 1)
        share = ops.minimum(step / self.total_steps, 1.0)
        fall = self.final + (self.peak - self.final) * (1 + ops.cos(math.pi * share)) / 2
        return ops.where(step < self.warmup_steps, growth, fall)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "initial": self.initial,
            "final": self.final,
            "hold": self.hold,
        }


def schedule(config: Config, steps_per_epoch: int) -> WarmupCosine:
    """The run's learning rate, step by step.

    Raises:
        ConfigError: if the run ends before its warm-up does.
    """
    total_steps = config.falling_steps(steps_per_epoch)
    warmup_steps = round(config.warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise ConfigError(
            f"`warmup_epochs` must be less than the run, of {total_steps / steps_per_epoch:.3g} "
            f"epochs. Received {config.warmup_epochs:g}."
        )
    scale = config.batch_size / (config.learning_rate_images or config.batch_size)
    return WarmupCosine(
        config.learning_rate * scale,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        initial=config.warmup_learning_rate,
        final=config.final_learning_rate,
        hold=steps_per_epoch if config.schedule_unit == "epoch" else 1,
    )


def without_decay(model: keras.Model) -> list[keras.Variable]:
    """The weights that weight decay leaves alone: norms, biases, class token, position embedding.

    That is whatever has one axis, and the weights of two layers. The depthwise kernels, small as
    they are, do decay. Source: official `set_wd` and `no_weight_decay`.
    """
    special = {
        id(weight)
        for layer in every_layer(model)
        if isinstance(layer, (keras_cvt.ClassToken, keras_cvt.PositionEmbedding))
        for weight in layer.trainable_weights
    }
    return [w for w in model.trainable_weights if len(w.shape) <= 1 or id(w) in special]


def freeze_without_effect(model: keras.Model) -> None:
    """Takes the weights that can't change what a model computes out of its trainable ones.

    Softmax ignores what is added to the scores of all keys alike: the keys' bias, and the offset of
    the keys' BatchNormalization where no class token is among the keys. Their gradient is zero but
    for rounding errors, of which Adam would make steps as large as any other: the weights would
    differ between one device and two, to no effect.
    """
    stages = stage_configs(model)
    for weight in model.trainable_weights:
        stage = stages[int(re.match(r"stage(\d+)_|", weight.path)[1] or 0)]
        if weight.path.endswith("/proj_k/bias") or (
            weight.path.endswith("/conv_proj_k/bn/beta") and not stage.class_token
        ):
            weight.trainable = False


class _ReducedBefore:
    """For an optimizer that is given gradients which all replicas share already.

    Keras' own adds them up inside of the optimizer, after clipping, and looks for numbers that are
    not finite on the first replica only. `training.step` adds up before both.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


@keras.saving.register_keras_serializable(package="keras_cvt_training")
class AdamW(_ReducedBefore, keras.optimizers.AdamW):
    """AdamW as torch has it, with which the recipe was found.

    Keras' own adds epsilon before it corrects the bias of the moments, which makes the epsilon of the
    first steps up to 32 times as large.
    """

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        mean, square = self._momentums[index], self._velocities[index]
        step = ops.cast(self.iterations + 1, variable.dtype)
        self.assign_add(mean, (gradient - mean) * (1 - self.beta_1))
        self.assign_add(square, (gradient * gradient - square) * (1 - self.beta_2))
        root = ops.sqrt(square / (1 - self.beta_2**step)) + self.epsilon
        self.assign_sub(variable, learning_rate * mean / (1 - self.beta_1**step) / root)


@keras.saving.register_keras_serializable(package="keras_cvt_training")
class SGD(_ReducedBefore, keras.optimizers.SGD):
    """SGD as torch has it.

    Weight decay is added to the gradient, and so to the momentum; and the whole momentum is multiplied
    with the learning rate of the step, where Keras' own has each gradient's learning rate in it.
    """

    def __init__(self, *args, decay: float = 0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        if self._use_weight_decay(variable):
            gradient = gradient + self.decay * variable
        if self.momentum:
            momentum = self.momentums[self._get_variable_index(variable)]
            self.assign(momentum, self.momentum * momentum + gradient)
            gradient = gradient + self.momentum * momentum if self.nesterov else momentum
        self.assign_sub(variable, learning_rate * gradient)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "decay": self.decay}


def optimizer(
    config: Config, model: keras.Model, steps_per_epoch: int, scaled: bool = False
) -> keras.Optimizer:
    """The run's optimizer, with its variables made; under the strategy in whose scope it is called.

    Args:
        model: whose trainable weights are meant.
        scaled: whether the loss is scaled, and steps left out that a too large scale has spoiled:
            for float16.
    """
    rate = schedule(config, steps_per_epoch)
    if config.optimizer == "sgd":
        result = SGD(rate, momentum=config.momentum, decay=config.weight_decay, name="sgd")
    else:
        result = AdamW(rate, weight_decay=config.weight_decay, epsilon=config.epsilon, name="adamw")
    result.exclude_from_weight_decay(var_list=without_decay(model))
    if scaled:
        # Keras' own name counts these optimizers, and a checkpoint has the name.
        result = keras.optimizers.LossScaleOptimizer(result, name="loss_scale")
    result.build(model.trainable_variables)
    return result
