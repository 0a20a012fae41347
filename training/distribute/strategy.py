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
`training.engine.step` has what is to be mended in the steps.
"""

from __future__ import annotations

import tensorflow as tf

from training.config import Config, ConfigError
from training.distribute.cluster import cluster, tpu


def choose(config: Config) -> tf.distribute.Strategy:
    """The strategy for this machine that the config asks for.

    To be called before TensorFlow has used the devices, which can't be arranged afterwards.

    Raises:
        ConfigError: if there is no such cluster or TPU, if the CPU can't be split any more, or if
            the batch can't be shared equally.
    """
    if config.logical_cpus > 1:
        _split_cpu(config.logical_cpus)
    resolver = cluster() if config.strategy in ("auto", "multi_worker") else None
    if config.strategy == "multi_worker" and resolver is None:
        raise ConfigError(
            "`strategy` multi_worker needs several workers in the environment's TF_CONFIG or Slurm's. "
            "python -m training.supervise --workers N -- ... sets it for N workers on this machine."
        )
    if config.strategy == "tpu":
        strategy = tf.distribute.TPUStrategy(tpu())
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
