"""Devices, randomness, checkpoints, and when a run stops."""

from __future__ import annotations

import dataclasses

from training.config.fields import AT_LEAST_1, FROM_1_TO_64, INT32, MORE_THAN_0, Section, setting

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DIVERGENCES = ("stop", "resume")


@dataclasses.dataclass(frozen=True)
class RunConfig(Section):
    """Devices, randomness, checkpoints, and when a run stops.

    Attributes:
        seed: Of the initial weights, the order and augmentation of the images, and the drop path.
        precision: "float32", "bfloat16" or "float16" of activations (weights are float32), or "auto":
            bfloat16 where GPUs or TPUs have it.
        jit_compile: Whether XLA compiles the steps on one device. TPUs always do. `training.train`
            refuses it elsewhere: Keras does without XLA where operations are deterministic.
        strategy: One of `STRATEGIES`, see `training.distribute`.
        logical_cpus: As how many devices TensorFlow sees the CPU; more than one is for trying
            "mirrored" without GPUs.
        keep_checkpoints: How many of the latest are kept.
        checkpoint_steps: Steps between checkpoints, besides the one after each epoch; none: no more.
        log_steps: Steps between the points of TensorBoard's curves.
        max_steps: Stop after this many steps as if interrupted, to continue another time; none: at the
            end.
        on_divergence: What to do when the loss or the gradient is NaN or infinite, or the loss exceeds
            `max_loss`: "stop", or "resume" from the last checkpoint with other random draws, up to
            three times.
        max_loss: The largest loss that does not count as divergence.
    """

    seed: int = setting(0, INT32)
    precision: str = setting("auto", choices=PRECISIONS)
    # It may change, since it has never had an effect but on TPUs, where it is always so.
    jit_compile: bool = setting(False, may_change=True)
    strategy: str = setting("auto", choices=STRATEGIES, may_change=True)
    logical_cpus: int = setting(1, FROM_1_TO_64, may_change=True)
    keep_checkpoints: int = setting(2, AT_LEAST_1, may_change=True)
    checkpoint_steps: int | None = setting(None, AT_LEAST_1, may_change=True)
    log_steps: int = setting(50, AT_LEAST_1, may_change=True)
    max_steps: int | None = setting(None, AT_LEAST_1, may_change=True)
    on_divergence: str = setting("stop", choices=DIVERGENCES, may_change=True)
    max_loss: float = setting(100.0, MORE_THAN_0, may_change=True)
