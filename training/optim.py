"""AdamW, its learning rate over time, and what it does not decay."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

import keras_cvt
from training.config import Config
from training.distribute import every_layer


@keras.saving.register_keras_serializable(package="keras_cvt_training")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that grows linearly, then falls along half a cosine.

    Args:
        peak: the highest, at step `warmup_steps`.
        total_steps: the step at which `final` is reached, and kept from then on.
        warmup_steps: steps of growth; with 0 the first step has the peak.
        initial: at step 0 of the growth.
        final: the lowest, at the end.

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

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        growth = step / max(self.warmup_steps, 1)
        fall = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        cosine = (1 + ops.cos(np.pi * ops.clip(fall, 0, 1))) / 2
        return ops.where(
            step < self.warmup_steps,
            self.initial + (self.peak - self.initial) * growth,
            self.final + (self.peak - self.final) * cosine,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "initial": self.initial,
            "final": self.final,
        }


def schedule(config: Config, steps_per_epoch: int) -> WarmupCosine:
    """The run's learning rate, step by step."""
    return WarmupCosine(
        config.learning_rate,
        total_steps=config.epochs * steps_per_epoch,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        initial=config.warmup_learning_rate,
        final=config.final_learning_rate,
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


def optimizer(config: Config, model: keras.Model, steps_per_epoch: int) -> keras.Optimizer:
    """AdamW for `model`, with its variables made; under the strategy in whose scope it is called."""
    adamw = keras.optimizers.AdamW(
        schedule(config, steps_per_epoch),
        weight_decay=config.weight_decay,
        epsilon=1e-8,  # torch's, with which the recipe was found; Keras' own is 1e-7
        name="adamw",
    )
    adamw.exclude_from_weight_decay(var_list=without_decay(model))
    adamw.build(model.trainable_variables)
    return adamw
