"""CvT-13 on ImageNet-1k at 384x384, from the weights for 224x224.

    python -m training.train --config cvt13_imagenet_384
    ... --set weights=runs/cvt13_imagenet_224/model.keras     # from one's own

Accuracy to expect: 83.0 % top-1 (paper, Table 3); from 22k, 83.3 %.
Hardware: one GPU with `--set accumulation=8`, or eight without.
Time: 20,000 steps are 10 million images, each 3.6 times the work of one of 224x224. Not measured.

SGD with momentum 0.9, batch 512 and 20,000 steps are the paper's (section 4.1), which refers to ViT for
the rest: cosine from a rate that ViT chooses among 0.003, 0.01, 0.03 and 0.06, warm-up over 500 steps,
gradients clipped to norm 1, no weight decay, crops and flips without mixing.
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
    data=DataConfig(
        source="tfds:imagenet2012", image_size=384, evaluation_crop=None, orientation="ignore"
    ),
    augmentation=AugmentationConfig(
        augmenter="none",
        erase=0.0,
        mixup=0.0,
        cutmix=0.0,
        label_smoothing=0.0,
    ),
    model=ModelConfig(variant="cvt13", weights="imagenet"),
    optimization=OptimizationConfig(
        epochs=None,
        steps=20_000,
        batch_size=512,
        optimizer="sgd",
        learning_rate=0.01,
        warmup_epochs=0.2,
        warmup_learning_rate=0.0,
        final_learning_rate=0.0,
        clip_norm=1.0,
    ),
    run=RunConfig(checkpoint_steps=500),
)
