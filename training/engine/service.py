"""What becomes of a run whose tf.data service stops sending batches."""

from __future__ import annotations

import threading
import time
from typing import Any

import keras
import tensorflow as tf

from training import _internal
from training.locking import print_warning

_TELL_AFTER, _TELL_EVERY = 30.0, 60.0  # seconds without a batch
_GIVE_UP_AFTER = 600.0  # a service that is started again may go on until then
_LOOK_EVERY = 1.0


class ServiceWatch(keras.callbacks.Callback):
    """Tells that a step waits for the service, and in the end cancels it: `with ServiceWatch(...):`.

    TensorFlow would wait for hours, and say nothing. Time counts while a step waits for a batch, and
    not while it is prepared, computed or evaluated.

    Args:
        address: The service's.
        replicas: How many batches a step takes here.

    Attributes:
        lost: Why the step was cancelled, in one line, or None.
    """

    def __init__(self, address: str, replicas: int):
        super().__init__()
        self._address, self._replicas = address, replicas
        self.lost: str | None = None
        self._arrived = self._taken = 0
        self._in_step = False
        self._ended = threading.Event()

    def counted(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """The same batches, of which each is noted when a step gets it."""

        def note() -> bool:
            self._arrived += 1
            return True

        def noted(*batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
            with tf.control_dependencies([tf.numpy_function(note, [], tf.bool)]):
                return tuple(map(tf.identity, batch))

        return batches.map(noted)

    def on_train_batch_begin(self, batch, logs=None):
        self._in_step = True

    def on_train_batch_end(self, batch, logs=None):
        self._in_step = False
        self._taken += self._replicas

    def __enter__(self) -> ServiceWatch:
        self._cancellation = _internal.cancellable()
        self._cancel = self._cancellation.__enter__()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended.set()
        self._thread.join()
        self._cancellation.__exit__(*error)

    def _look(self) -> None:
        since, tell_at = time.monotonic(), _TELL_AFTER
        while not self._ended.wait(_LOOK_EVERY):
            now = time.monotonic()
            # A step's first batch is asked for when the step has been traced.
            waits = self._in_step and self.model.traced and self._arrived <= self._taken
            if not waits:
                since, tell_at = now, _TELL_AFTER
            elif now - since > _GIVE_UP_AFTER:
                self.lost = (
                    f"The data service {self._address} has sent nothing for {now - since:.0f} s."
                )
                self._cancel()
                return
            elif now - since > tell_at:
                tell_at += _TELL_EVERY
                print_warning(
                    f"no batch from the data service {self._address} for {now - since:.0f} s"
                )
