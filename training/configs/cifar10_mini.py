"""A CvT of CvT-13's form on CIFAR-10 at its own 32x32 pixels, small enough for two CPU cores.

    python -m training.train --config cifar10_mini
    python -m training.train --config cifar10_mini --set source=folder:DIR   # train/CLASS, val/CLASS

It is for trying things, above all the paper's ablations and search in miniature: see docs/paper.md. The
data set is downloaded.
Accuracy and time: not measured yet.
"""

from training.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizationConfig,
)

CONFIG = Config(
    data=DataConfig(source="tfds:cifar10", image_size=32, evaluation_crop=None),
    # The recipe in small: of so few pixels no crops are enlarged, and a small network has no use for
    # harder images.
    augmentation=AugmentationConfig(
        max_shift=4,
        crop_scale=None,
        augmenter="none",
        flip=0.5,
        erase=0.0,
        mixup=0.0,
        cutmix=0.0,
        label_smoothing=0.1,
    ),
    model=ModelConfig(
        dims=(32, 64, 128),
        depths=(1, 2, 4),
        heads=(1, 2, 4),
        patch=(3, 2, 1),
        init="xavier",
        drop_path_rate=0.1,
    ),
    optimization=OptimizationConfig(
        epochs=50,
        batch_size=128,
        learning_rate=2e-3,
        warmup_epochs=2,
        weight_decay=0.05,
        clip_norm=1.0,
    ),
)
