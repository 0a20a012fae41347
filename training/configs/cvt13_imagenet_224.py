"""CvT-13 on ImageNet-1k from scratch, at 224x224: the official recipe.

    python -m training.prepare tfds:imagenet2012 --tars DIR   # once
    python -m training.train --config cvt13_imagenet_224

Accuracy to expect: 81.6 % top-1 (paper, Table 3).
Hardware: the official run had 8 GPUs with 256 images each. With fewer, or less memory, the batch stays
and goes through in parts: `--set accumulation=8` on one GPU.
Time: 310 epochs are 397 million images: 14 hours at 8,000 images/s. No such run was made here.

What is not in the paper follows the official code: its learning rate (0.00025 for each 256 images; the
paper's 0.02 is reported to diverge), warm-up and cool-down, and a rate that changes between epochs.
"""

from training.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimizationConfig,
    RunConfig,
)

CONFIG = Config(
    data=DataConfig(source="tfds:imagenet2012", image_size=224, orientation="ignore"),
    augmentation=AugmentationConfig(
        mix_images=256,  # the images of one GPU in the official run
    ),
    model=ModelConfig(variant="cvt13"),
    optimization=OptimizationConfig(
        epochs=300,
        batch_size=2048,
        learning_rate=1e-3,
        learning_rate_images=1024,
        warmup_epochs=5,
        cooldown_epochs=10,
        schedule_unit="epoch",
        weight_decay=0.05,
    ),
    run=RunConfig(checkpoint_steps=200),
)
