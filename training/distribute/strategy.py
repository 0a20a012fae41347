"""Which devices a program runs on."""

from __future__ import annotations

import tensorflow as tf

from training.config import ConfigError
from training.distribute.cluster import cluster, tpu


def choose(strategy: str = "auto", logical_cpus: int = 1) -> tf.distribute.Strategy:
    """The strategy of that name on this machine.

    Call this before TensorFlow uses the devices, which cannot be arranged afterwards.

    Args:
        strategy: One of `training.config.STRATEGIES`, see `training.distribute`. Defaults to "auto".
        logical_cpus: As how many devices TensorFlow sees the CPU. Defaults to 1.

    Raises:
        ConfigError: If there is no such cluster or TPU, or if the CPU cannot be split any more.
    """
    if logical_cpus > 1:
        _split_cpu(logical_cpus)
    resolver = cluster() if strategy in ("auto", "multi_worker") else None
    if strategy == "multi_worker" and resolver is None:
        raise ConfigError(
            "`strategy` multi_worker needs several workers in the environment's TF_CONFIG or Slurm's. "
            "python -m training.supervise --workers N -- ... sets it for N workers on this machine."
        )
    if strategy == "tpu":
        return tf.distribute.TPUStrategy(tpu())
    if resolver is not None:
        return tf.distribute.MultiWorkerMirroredStrategy(resolver)
    gpus = [device.name for device in tf.config.list_logical_devices("GPU")]
    cpus = [device.name for device in tf.config.list_logical_devices("CPU")]
    if strategy == "mirrored" or (strategy == "auto" and len(gpus) > 1):
        return tf.distribute.MirroredStrategy(gpus or cpus)
    return tf.distribute.OneDeviceStrategy((gpus or cpus)[0])


def check_batch(
    strategy: tf.distribute.Strategy,
    batch_size: int,
    accumulation: int = 1,
    jit_compile: bool = False,
) -> None:
    """Checks that the replicas can share a step.

    Args:
        strategy: As `choose` returns it.
        batch_size: Images per step, over all replicas together.
        accumulation: In how many parts each replica's share goes through the model. Defaults to 1.
        jit_compile: Whether XLA compiles the step. Defaults to False.

    Raises:
        ConfigError: If the batch cannot be shared equally, or XLA cannot compile for these devices.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % (replicas * accumulation):
        raise ConfigError(
            f"`batch_size` must be a multiple of the number of devices, {replicas}, times "
            f"`accumulation`, {accumulation}. Received {batch_size}."
        )
    if jit_compile and replicas > 1 and not isinstance(strategy, tf.distribute.TPUStrategy):
        raise ConfigError("`jit_compile` works on one device only. Received true.")


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


def policy(precision: str = "auto", tpu: bool = False) -> str:
    """The dtype policy for a precision, on this machine's devices.

    Args:
        precision: One of `training.config.PRECISIONS`. Defaults to "auto": bfloat16 where the devices
            have it.
        tpu: Whether the devices are a TPU's. Defaults to False.
    """
    if precision == "auto":
        gpus = tf.config.list_physical_devices("GPU")
        capabilities = [
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
            for gpu in gpus
        ]
        return "mixed_bfloat16" if tpu or (gpus and min(capabilities) >= (8, 0)) else "float32"
    return precision if precision == "float32" else f"mixed_{precision}"
