"""A run of seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tensorflow.python.framework import config as switches

from training import configs, startup
from training.config import Config

# One stage with two blocks: all kinds of weights, class token and drop path, and quick to trace.
TINY = [
    "image_size=16",
    "dims=16",
    "depths=2",
    "heads=2",
    "patch=4,4,0",
    "drop_path_rate=0.5",
    "label_smoothing=0.1",
    "batch_size=256",
    "epochs=3",
    "warmup_epochs=1",
    "ema=0.9",
    "checkpoint_steps=2",
    "log_steps=2",
]

TINY_CONFIG = configs.load("digits", TINY)

STEPS = 1437 // 256


def changed(**fields) -> Config:
    return TINY_CONFIG.replace(**fields)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Operations as the program has them; afterwards they are as they were."""
    was = switches.is_op_determinism_enabled()
    startup.make_deterministic()
    yield
    if not was:
        switches.disable_op_determinism()
