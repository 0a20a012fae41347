"""The learning rate over time."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from training.config import Config, ConfigError


@keras.saving.register_keras_serializable(package="keras_cvt_training")
class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then half a cosine, then constant.

    The cosine starts at step 0, not after the warm-up, as in timm's `CosineLRScheduler`: the warm-up
    just hides its beginning. With `hold` equal to the steps of an epoch this is the official code's
    schedule, which changes the rate between epochs. In a notebook:

        rate = WarmupCosine(1e-3, total_steps=epochs * steps, warmup_steps=5 * steps)
        model.compile(optimizer=keras.optimizers.AdamW(rate), loss=...)

    Args:
        peak: The learning rate at the end of the warm-up.
        total_steps: The step at which `final` is reached; the rate stays there.
        warmup_steps: Steps of the warm-up; with 0 the first step has the peak. Defaults to 0.
        initial: The rate of step 0 in the warm-up. Defaults to 0.
        final: The lowest rate, at the end. Defaults to 0.
        hold: This many successive steps have one learning rate, that of the first. Defaults to 1.

    Call arguments:
        step: How many steps were done before this one; an integer scalar.

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
    """The run's learning rate for each step.

    Raises:
        ConfigError: If the run ends before its warm-up does.
    """
    asked = config.optimization
    total_steps = asked.decay_steps(steps_per_epoch)
    warmup_steps = round(asked.warmup_epochs * steps_per_epoch)
    if warmup_steps >= total_steps:
        raise ConfigError(
            f"`warmup_epochs` must be less than the run, of {total_steps / steps_per_epoch:.3g} "
            f"epochs. Received {asked.warmup_epochs:g}."
        )
    return WarmupCosine(
        asked.peak_learning_rate,
        total_steps=total_steps,
        warmup_steps=warmup_steps,
        initial=asked.warmup_learning_rate,
        final=asked.final_learning_rate,
        hold=steps_per_epoch if asked.schedule_unit == "epoch" else 1,
    )
