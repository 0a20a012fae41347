"""How batches reach the devices: parts of workers, the tf.data service, prefetching."""

from __future__ import annotations

import socket

import tensorflow as tf

from training import _internal, startup
from training.config import Config, ConfigError
from training.data.dataset import Dataset

_READY = 2  # batches

_SERVICE_ANSWERS = 30.0  # seconds


def parts(batch_size: int, what: str, workers: int, replicas: int) -> tuple[int, int]:
    """Divides a batch: returns the rows of a worker, and those of a replica.

    Raises:
        ConfigError: If it can't be divided evenly. `what` names the batch.
    """
    if batch_size % (workers * replicas):
        raise ConfigError(
            f"{what} must be a multiple of the number of devices, {workers * replicas}. Received "
            f"{batch_size}."
        )
    return batch_size // workers, batch_size // workers // replicas


def served(groups: Dataset, config: Config, needs_pillow: str) -> Dataset:
    """Lets the servers of a tf.data service prepare the groups.

    The servers share the groups (of TFRecord, the epochs) among them as each has time: all are
    prepared once, in no particular order; those of a server that fails are lost.

    Args:
        needs_pillow: An image of the source that TensorFlow alone does not decode; "" if there is none.

    Raises:
        ConfigError: If only this process can read the source, or there is no service.
    """
    if needs_pillow:
        raise ConfigError(
            "`data_service` must be none for images other than JPEG and PNG, which need Pillow in this "
            f"process. Received {config.data.source}, which has {needs_pillow}."
        )
    if _internal.has_python(groups):
        raise ConfigError(
            f"`data_service` can't be used with {config.data.source} and "
            f"{config.augmentation.augmenter!r}: they need Python in this process. Take TFRecord or "
            "folders, or `data_service` none."
        )
    protocol, _, address = config.data.data_service.partition("://")
    host, _, port = address.rpartition(":")
    try:
        if not protocol or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError("it is not PROTOCOL://HOST:PORT")
        # TensorFlow itself would wait for it, for as long as it takes, and say nothing.
        socket.create_connection((host, int(port)), _SERVICE_ANSWERS).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"`data_service` must be the address of a dispatcher that runs, such as grpc://host:5000. "
            f"Received {config.data.data_service!r}: {error}."
        ) from None
    service = tf.data.experimental.service
    return groups.apply(
        service.distribute(
            processing_mode=service.ShardingPolicy.DYNAMIC, service=config.data.data_service
        )
    )


def as_tuples(batches: Dataset, *names: str) -> Dataset:
    """Gives batches as `fit` and `evaluate` take them: from here on, tuples in the order of `names`."""
    return batches.map(lambda batch: tuple(batch[name] for name in names))


def finished(batches: Dataset) -> Dataset:
    """Has the batches prepared in advance, in order, on all cores."""
    options = tf.data.Options()
    options.deterministic = True
    # Images are prepared side by side: to part each operation as well only costs.
    options.threading.max_intra_op_parallelism = 1
    # Two more than there are cores: some wait for a batch to be put together.
    options.threading.private_threadpool_size = startup.cores() + 2
    # Its rewriting fails with what keras-cv adds to a data set inside another.
    options.experimental_optimization.map_and_batch_fusion = False
    # The workers' parts are made here: a strategy must not part them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(_READY).with_options(options)
