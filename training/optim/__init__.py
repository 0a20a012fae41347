"""Optimizers and the learning-rate schedule of the recipe, and which weights do not decay."""

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
