"""The workers and TPUs that a program is part of, as the environment names them."""

from __future__ import annotations

import json
import os
import textwrap
from importlib import metadata

import tensorflow as tf

from keras_cvt._messages import one_line
from training._internal import slurm_hosts, slurm_tasks
from training.config import ConfigError

_SLURM_PORT = 8888  # of a machine's first task


def cluster() -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """The workers that the environment names; None if there is only one.

    Raises:
        ConfigError: If the environment names them in a way that cannot be understood.
    """
    try:
        if "TF_CONFIG" in os.environ:
            told = json.loads(os.environ["TF_CONFIG"])
            jobs, task, index = told["cluster"], told["task"]["type"], int(told["task"]["index"])
        elif int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            jobs, task, index = {"worker": _slurm()}, "worker", int(os.environ["SLURM_PROCID"])
        else:
            return None
        cluster = tf.train.ClusterSpec(jobs)
        cluster.task_address(task, index)  # an error if there is none
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"The environment does not say who the workers are: {error!r}. TF_CONFIG is "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.'
        ) from None
    if sum(cluster.num_tasks(job) for job in {"chief", "worker"} & set(cluster.jobs)) == 1:
        return None
    gpus = len(tf.config.list_physical_devices("GPU"))
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        cluster, task_type=task, task_id=index, num_accelerators={"GPU": gpus}, rpc_layer="grpc"
    )


def _slurm() -> list[str]:
    """The addresses of a Slurm step's tasks, in the order of their numbers.

    TensorFlow's SlurmClusterResolver needs GPUs, and sorts n10 before n9.
    """
    hosts = slurm_hosts(os.environ["SLURM_STEP_NODELIST"])
    tasks = slurm_tasks(os.environ["SLURM_STEP_TASKS_PER_NODE"])
    numbers = zip(hosts, tasks, strict=True)
    return [f"{host}:{_SLURM_PORT + i}" for host, number in numbers for i in range(number)]


def tpu() -> tf.distribute.cluster_resolver.TPUClusterResolver:
    """The TPU that TPU_NAME names, or that of this machine, initialized.

    Raises:
        ConfigError: If there is none.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=os.environ.get("TPU_NAME", "local")
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        name = os.environ.get("TPU_NAME")
        raise ConfigError(
            f"`strategy` tpu finds no TPU: TPU_NAME is {name or 'not set'}, and {_wheel()}. On a TPU "
            "VM, install the extra tpu, stop whatever else holds the TPU, and leave TPU_NAME unset; "
            "elsewhere, TPU_NAME is the TPU's name. TensorFlow says: "
            f"{textwrap.shorten(one_line(error), 200)}"
        ) from None
    return resolver


def _wheel() -> str:
    """Says which TensorFlow is installed."""
    try:
        return f"tensorflow-tpu {metadata.version('tensorflow-tpu')} is installed"
    except metadata.PackageNotFoundError:
        return f"TensorFlow {tf.__version__} is not the wheel tensorflow-tpu"


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files: the first worker's, or the only one."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    resolver = strategy.cluster_resolver
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == first and resolver.task_id == 0


def agree(strategy: tf.distribute.Strategy, number: int) -> int:
    """The chief's number, for all workers."""
    return _sum(strategy, number, of_chief=True)


def all_have(strategy: tf.distribute.Strategy, number: int) -> bool:
    """Whether all workers have the chief's number; the answer is the same on all of them."""
    return _sum(strategy, int(agree(strategy, number) != number)) == 0


def _sum(strategy: tf.distribute.Strategy, number: int, of_chief: bool = False) -> int:
    """The sum of all replicas' numbers, or that of the first one's alone, on all workers."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return number

    def add_up() -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        is_first = tf.equal(replica.replica_id_in_sync_group, 0)
        counts = is_first if of_chief else tf.constant(True)
        mine = tf.where(counts, tf.constant(number, tf.int64), 0)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    return int(strategy.experimental_local_results(strategy.run(tf.function(add_up)))[0])
