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

from training.distribute.batches import ParallelBatches, distributed
from training.distribute.cluster import agree, is_chief
from training.distribute.replicas import every_layer, prepare, reseed, seed_generators
from training.distribute.strategy import check_batch, choose, describe, policy

__all__ = [
    "ParallelBatches",
    "agree",
    "check_batch",
    "choose",
    "describe",
    "distributed",
    "every_layer",
    "is_chief",
    "policy",
    "prepare",
    "reseed",
    "seed_generators",
]
