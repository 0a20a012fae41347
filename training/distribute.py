"""Choosing the devices, and making a model right for several of them.

Strategies, as `--strategy` and the config name them:

    auto          several machines if the environment names them (TF_CONFIG, or Slurm's variables);
                  else all GPUs of this machine; else one device
    one_device    the first GPU, else the CPU
    mirrored      one replica on each GPU, else on each logical CPU
    multi_worker  one process on each machine, with all its GPUs; from TF_CONFIG, else from Slurm
    tpu           the TPU that TPU_NAME names, or that of this machine

The batch and the learning rate of a run are the same on any of them.

Keras' own layers are not right for several replicas in two ways, which `prepare` mends: the
statistics of BatchNormalization are each replica's own, and random masks are the same on all.
`training.step` has what is to be mended in the steps.
"""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from tensorflow.python.distribute import input_lib
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver
from tensorflow.python.framework import config as switches

import keras_cvt
from training.config import Config, ConfigError

_SLURM_PORT = 8888  # of a machine's first task


def choose(config: Config) -> tf.distribute.Strategy:
    """The strategy for this machine that the config asks for.

    To be called before TensorFlow has used the devices, which can't be arranged afterwards.

    Raises:
        ConfigError: if there is no such cluster or TPU, if the CPU can't be split any more, or if
            the batch can't be shared equally.
    """
    if config.logical_cpus > 1:
        _split_cpu(config.logical_cpus)
    resolver = _cluster() if config.strategy in ("auto", "multi_worker") else None
    if config.strategy == "multi_worker" and resolver is None:
        raise ConfigError(
            "`strategy` multi_worker needs several workers in the environment's TF_CONFIG or Slurm's. "
            "python -m training.supervise --workers N -- ... sets it for N workers on this machine."
        )
    if config.strategy == "tpu":
        strategy = tf.distribute.TPUStrategy(_tpu())
    elif resolver is not None:
        strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    else:
        gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
        cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
        if config.strategy == "mirrored" or (config.strategy == "auto" and len(gpus) > 1):
            strategy = tf.distribute.MirroredStrategy(gpus or cpus)
        else:
            strategy = tf.distribute.OneDeviceStrategy((gpus or cpus)[0])
    replicas = strategy.num_replicas_in_sync
    if config.batch_size % (replicas * config.accumulation):
        raise ConfigError(
            f"`batch_size` must be a multiple of the number of devices, {replicas}, times "
            f"`accumulation`, {config.accumulation}. Received {config.batch_size}."
        )
    if config.jit_compile and replicas > 1 and config.strategy != "tpu":
        raise ConfigError("`jit_compile` works on one device only. Received true.")
    return strategy


def _cluster() -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """Who the workers are, if there are several."""
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
    hosts = slurm_cluster_resolver.expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
    tasks = slurm_cluster_resolver.expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
    numbers = zip(hosts, tasks, strict=True)
    return [f"{host}:{_SLURM_PORT + i}" for host, number in numbers for i in range(number)]


def _tpu() -> tf.distribute.cluster_resolver.TPUClusterResolver:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=os.environ.get("TPU_NAME", "local")
        )
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        raise ConfigError(
            f"There is no TPU (TPU_NAME is {os.environ.get('TPU_NAME', 'not set')}): "
            f"{str(error).splitlines()[0]}"
        ) from None
    return resolver


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run's files: the first worker's, or the only one."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    resolver = strategy.cluster_resolver
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == first and resolver.task_id == 0


def agree(strategy: tf.distribute.Strategy, number: int) -> int:
    """The chief's number, for all workers."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return number

    def first() -> tf.Tensor:
        replica = tf.distribute.get_replica_context()
        is_first = tf.equal(replica.replica_id_in_sync_group, 0)
        mine = tf.where(is_first, tf.constant(number, tf.int64), 0)
        return replica.all_reduce(tf.distribute.ReduceOp.SUM, mine)

    return int(strategy.experimental_local_results(strategy.run(tf.function(first)))[0])


def _split_cpu(parts: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * parts
        )
    except RuntimeError:  # it is in use, as it is in a second run in one process
        if len(tf.config.list_logical_devices("CPU")) != parts:
            raise ConfigError(
                f"`logical_cpus`: the CPU is in use already, and can't be split into {parts}."
            ) from None


def describe(strategy: tf.distribute.Strategy) -> str:
    """Such as "MirroredStrategy on 2 devices: CPU:0, CPU:1"."""
    devices = [d.split("device:")[-1] for d in strategy.extended.worker_devices]
    s = "" if len(devices) == 1 else "s"
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    name = "MultiWorkerMirroredStrategy" if several else type(strategy).__name__  # as users know it
    text = f"{name} on {len(devices)} device{s}: {', '.join(devices)}"
    workers = strategy.num_replicas_in_sync // len(devices)
    return text if workers == 1 else f"{workers} workers, each with {text}"


def prepare(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Makes training on several replicas what it is on one; changes nothing for one replica.

    - BatchNormalization takes its statistics over the global batch.
    - DropPath draws the masks of the global batch, of which each replica uses its part: the very
      masks of a single device.
    - Dropout masks differ from replica to replica: as good as those of a single device, but
      not the same.

    Layers change in place, and their classes with them: save another model with these weights.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for layer in every_layer(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
        elif isinstance(layer, keras_cvt.DropPath):
            layer.__class__ = GlobalDropPath
        elif _draws(layer):
            layer.seed_generator.__class__ = ReplicaSeedGenerator


def every_layer(model: keras.Model) -> list[keras.Layer]:
    """The layers of a model and those inside of layers, always in the same order."""
    return model._flatten_layers()  # Keras has it under no public name


def reseed(model: keras.Model, number: int) -> None:
    """Gives a model's layers other random draws than before, decided by `number`."""
    for seeds in seed_generators(model):
        state = keras.ops.convert_to_numpy(seeds.state)
        # The state is (seed, number of draws).
        seeds.state.assign(state + np.array([number * 7919, 0], state.dtype))


def policy(config: Config) -> str:
    """The dtype policy that the config asks for, on these devices."""
    if config.precision == "auto":
        gpus = tf.config.list_physical_devices("GPU")
        capabilities = [
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
            for gpu in gpus
        ]
        fast = config.strategy == "tpu" or (gpus and min(capabilities) >= (8, 0))
        return "mixed_bfloat16" if fast else "float32"
    return config.precision if config.precision == "float32" else f"mixed_{config.precision}"


def seed_generators(model: keras.Model) -> list[keras.random.SeedGenerator]:
    """Those of all layers, in the order of the layers."""
    return [layer.seed_generator for layer in every_layer(model) if _draws(layer)]


def _draws(layer: keras.Layer) -> bool:
    return isinstance(getattr(layer, "seed_generator", None), keras.random.SeedGenerator)


class ParallelBatches(input_lib.DistributedDatasetsFromFunction):
    """Batches that are prepared in parallel and in advance, also where operations are deterministic.

    With that switch, tf.data runs a pipeline on one thread, and nothing in advance, if a function in
    it has what TensorFlow calls a state: Python, or a data set inside, as `training.data` has. Its rows
    follow from keys, and their order is kept, so the switch has nothing to add. It counts only when the
    iterator is made.
    """

    def __iter__(self) -> Any:
        if not switches.is_op_determinism_enabled():
            return super().__iter__()
        switches.disable_op_determinism()
        try:
            return super().__iter__()
        finally:
            switches.enable_op_determinism()


class GlobalDropPath(keras_cvt.DropPath):
    """DropPath that drops the same samples of the global batch on any number of replicas."""

    def draw_mask(self, samples: Any) -> Any:
        replica = tf.distribute.get_replica_context()
        if replica is None:
            return super().draw_mask(samples)
        mask = super().draw_mask(samples * replica.num_replicas_in_sync)
        # A strategy gives the first replica the first rows of a batch, and so on.
        first = replica.replica_id_in_sync_group * samples
        # Unlike mask[first:...], it says that its length is known, as XLA needs it on TPUs.
        return ops.slice(mask, [first], [samples])


class ReplicaSeedGenerator(keras.random.SeedGenerator):
    """A seed generator whose seeds differ between replicas; the first has the usual ones."""

    def next(self, ordered: bool = True) -> Any:
        seed = super().next(ordered)
        replica = tf.distribute.get_replica_context()
        if replica is None:
            return seed
        # The state is (seed, number of draws): the number must stay, the seed may be any other.
        offset = ops.cast(replica.replica_id_in_sync_group, seed.dtype) * 1_000_003
        return seed + ops.stack([offset, ops.zeros_like(offset)])
