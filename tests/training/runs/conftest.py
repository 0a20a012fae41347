"""A run that has checkpoints already."""

from __future__ import annotations

import pytest
from run_checkpoint_cases import checkpoint

from training.runs.run_checkpoints import RunCheckpoints


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def run(tmp_path, warnings) -> RunCheckpoints:
    """With the checkpoints of steps 10 and 20."""
    run = RunCheckpoints(tmp_path, keep=2, warn=warnings.append)
    run.save(checkpoint(10))
    run.save(checkpoint(20))
    return run
