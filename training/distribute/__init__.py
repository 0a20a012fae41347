"""The devices of a program, and what makes a model right on several of them.

Strategies, as `--strategy` and the config name them:

    auto          several machines if the environment names them (TF_CONFIG, or Slurm's variables);
                  else all GPUs of this machine; else one device
    one_device    the first GPU, else the CPU
    mirrored      one replica on each GPU, else on each logical CPU
    multi_worker  one process on each machine, with all its GPUs; from TF_CONFIG, else from Slurm
    tpu           the TPU that TPU_NAME names, or that of this machine

The batch size and the learning rate of a run are the same on any of them.

Keras' own layers differ between one replica and several in two ways, which `prepare` corrects: each
replica has its own statistics of BatchNormalization, and all replicas draw the same random masks.
`training.engine.step` has the steps that are right on several replicas.
"""

from training.distribute.batches import distributed
from training.distribute.cluster import agree, all_have, is_chief
from training.distribute.replicas import prepare, reseed, seed_generators
from training.distribute.strategy import check_batch, choose, describe, policy

__all__ = [
    "agree",
    "all_have",
    "check_batch",
    "choose",
    "describe",
    "distributed",
    "is_chief",
    "policy",
    "prepare",
    "reseed",
    "seed_generators",
]
