"""The optimizers, the learning rate over time, and which weights are treated in another way."""

from training.optim.optimizers import SGD, AdamW, freeze_without_effect, optimizer, without_decay
from training.optim.schedules import WarmupCosine, schedule

__all__ = [
    "SGD",
    "AdamW",
    "WarmupCosine",
    "freeze_without_effect",
    "optimizer",
    "schedule",
    "without_decay",
]
