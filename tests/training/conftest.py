"""A run that nothing disturbed, for all tests that look at one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tensorflow as tf
import tiny_runs

from training import data, train


@pytest.fixture(scope="module")
def deterministic() -> Iterator[None]:
    with tiny_runs.deterministic():
        yield


@pytest.fixture
def eager() -> Iterator[None]:
    """Steps without a graph, for runs of so few steps that tracing would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def images() -> data.RunData:
    return data.load(tiny_runs.TINY_CONFIG)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> Path:
    """Its folder; nothing may be written there."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    with tiny_runs.deterministic():
        assert train.train(tiny_runs.TINY_CONFIG, run_dir) is not None
    return run_dir
