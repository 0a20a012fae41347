"""A tf.data service that sends nothing (training/engine/service.py)."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import optim
from training.engine import service
from training.engine.service import ServiceWatch
from training.engine.step import Trainer


@pytest.fixture
def trainer() -> Trainer:
    layers = [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    trainer = Trainer(keras.Sequential(layers))
    trainer.compile(optim.SGD(0.1), jit_compile=False)
    return trainer


def batches(count: int) -> tf.data.Dataset:
    rows = (
        np.zeros((4 * count, 2, 2, 1), "float32"),
        np.eye(3, dtype="float32")[np.zeros(4 * count, int)],
    )
    return tf.data.Dataset.from_tensor_slices(rows).batch(4, drop_remainder=True)


def test_a_service_without_servers_is_told_of_and_left(trainer, monkeypatch, capsys):
    for name, seconds in (("_LOOK_EVERY", 0.01), ("_TELL_AFTER", 0.05), ("_GIVE_UP_AFTER", 1.0)):
        monkeypatch.setattr(service, name, seconds)
    servers = tf.data.experimental.service
    dispatcher = servers.DispatchServer()
    # It answers, but nobody ever prepares a batch for it.
    waiting = batches(3).apply(
        servers.distribute(
            servers.ShardingPolicy.DYNAMIC, dispatcher.target, max_outstanding_requests=1
        )
    )
    watch = ServiceWatch(dispatcher.target, replicas=1)
    try:
        with watch, pytest.raises(tf.errors.CancelledError):
            trainer.fit(watch.counted(waiting), steps_per_epoch=3, callbacks=[watch], verbose=0)
    finally:
        dispatcher._stop()
    assert watch.lost.startswith(f"The data service {dispatcher.target} has sent nothing for ")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"Warning: no batch from the data service {dispatcher.target} for ")


def test_nothing_is_said_of_a_service_that_sends(trainer, monkeypatch, capsys):
    """Nor while a step is traced, computed or followed by something else."""
    monkeypatch.setattr(service, "_LOOK_EVERY", 0.01)
    watch = ServiceWatch("grpc://there", replicas=1)
    with watch:
        trainer.fit(watch.counted(batches(3)), steps_per_epoch=3, callbacks=[watch], verbose=0)
    assert watch.lost is None and (watch._arrived, watch._taken) == (3, 3)
    assert not watch._thread.is_alive() and capsys.readouterr().err == ""
    # Afterwards, nothing can be cancelled any more.
    watch._cancel()
    trainer.fit(batches(3), steps_per_epoch=3, verbose=0)
