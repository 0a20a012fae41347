"""The steps of a run: how many, of what size, and what the optimizer does in each."""

from __future__ import annotations

import dataclasses

from training.config.fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    AT_LEAST_1_INT32,
    BETWEEN_0_AND_1,
    LESS_THAN_1,
    MORE_THAN_0,
    ConfigError,
    Section,
    is_float32,
    setting,
)

OPTIMIZERS = ("adamw", "sgd")
SCHEDULE_UNITS = ("epoch", "step")


@dataclasses.dataclass(frozen=True)
class OptimizationConfig(Section):
    """The steps of a run: how many, of what size, and what the optimizer does in each.

    Attributes:
        batch_size: Images per step, over all devices together.
        learning_rate: The peak, reached after the warm-up. It does not depend on the number of devices.
        epochs: Passes over the training images until the learning rate has decayed; each leaves out the
            images that do not fill a batch, different ones each time. Or give `steps`.
        steps: Optimizer steps instead of `epochs`, one of which is none.
        optimizer: "adamw" or "sgd".
        momentum: Of SGD.
        learning_rate_images: `learning_rate` is for that many images per step, and scaled with the
            batch; none: it is used as it is. (The warm-up's first and the final one are not scaled.)
        warmup_epochs: Epochs of linear warm-up from `warmup_learning_rate`; may be fractional.
        cooldown_epochs: Epochs at `final_learning_rate` after the others.
        warmup_learning_rate, final_learning_rate: Of the first step, and at the end of the cosine.
        schedule_unit: "epoch" as in the official code, which changes the learning rate after each
            epoch, or "step".
        weight_decay: AdamW's is multiplied by the learning rate in each step; SGD's is added to the
            gradient, as in torch.
        epsilon: AdamW's; the default is torch's, with which the recipe was found. With a larger one,
            gradients that are nothing but rounding errors make no steps.
        clip_norm: Largest norm of the whole gradient; none: any.
        accumulation: A batch goes through the model in this many parts, one after another, which then
            make one step: for batches that do not fit into memory.
        ema: Decay of an exponential moving average of weights and statistics, with which the model is
            then evaluated and saved; none: no average.
    """

    batch_size: int = setting(within=AT_LEAST_1)
    learning_rate: float = setting(within=MORE_THAN_0)
    epochs: int | None = setting(within=AT_LEAST_1)
    steps: int | None = setting(None, AT_LEAST_1)
    optimizer: str = setting("adamw", choices=OPTIMIZERS)
    momentum: float = setting(0.9, LESS_THAN_1)
    learning_rate_images: int | None = setting(None, AT_LEAST_1_INT32)
    warmup_epochs: float = setting(0, AT_LEAST_0)
    cooldown_epochs: int = setting(0, AT_LEAST_0)
    warmup_learning_rate: float = setting(1e-6, AT_LEAST_0)
    final_learning_rate: float = setting(1e-5, AT_LEAST_0)
    schedule_unit: str = setting("step", choices=SCHEDULE_UNITS)
    weight_decay: float = setting(0.0, AT_LEAST_0)
    epsilon: float = setting(1e-8, MORE_THAN_0)
    clip_norm: float | None = setting(None, MORE_THAN_0)
    accumulation: int = setting(1, AT_LEAST_1)
    ema: float | None = setting(None, BETWEEN_0_AND_1)

    def __post_init__(self):
        super().__post_init__()
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"One of `epochs` and `steps` must be none. Received {self.epochs} and {self.steps}."
            )
        if self.epochs is not None:
            self.check("warmup_epochs", self.warmup_epochs < self.epochs, "less than `epochs`")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"`batch_size` must be a multiple of `accumulation`. Received {self.batch_size} and "
                f"{self.accumulation}."
            )
        if not is_float32(self.peak_learning_rate):
            raise ConfigError(
                "`learning_rate` times `batch_size` / `learning_rate_images` must be a number that "
                f"float32 has. Received: {self.learning_rate:g} * {self.batch_size} / "
                f"{self.learning_rate_images}."
            )

    @property
    def peak_learning_rate(self) -> float:
        """The largest learning rate of the run: `learning_rate`, scaled with the batch."""
        return self.learning_rate * self.batch_size / (self.learning_rate_images or self.batch_size)

    def decay_steps(self, steps_per_epoch: int) -> int:
        """Steps until the learning rate has decayed; the cool-down follows."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps
