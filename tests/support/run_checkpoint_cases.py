"""Checkpoints of runs that tell their step in every part."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from training.runs.run_checkpoints import RunCheckpoint


def checkpoint(step: int, numbers: int = 1000) -> RunCheckpoint:
    """Every part of it tells the step."""
    arrays = {
        "weights/kernel": np.full((numbers // 10, 10), step, "float32"),
        "optimizer/momentum": np.full(numbers, step, ml_dtypes.bfloat16),
        "optimizer/iteration": np.array(step, "int64"),
        "seeds/0": np.array([step, 7], "uint32"),
    }
    return RunCheckpoint(step, arrays, {"epochs": [{"loss": step / 3}], "step": step})


def assert_same(found: RunCheckpoint | None, expected: RunCheckpoint) -> None:
    assert found is not None
    assert (found.step, found.state) == (expected.step, expected.state)
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()
