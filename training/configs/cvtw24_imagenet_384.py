"""CvT-W24 on ImageNet-1k at 384x384, from its weights for ImageNet-22k.

    python -m training.train --config cvtw24_imagenet_384
    ... --set weights=imagenet     # from the published ones, which are trained to the end

Accuracy to expect: 87.7 % top-1 (paper, Table 3).
Hardware: 194 G multiply-adds for each image forward: as many GPUs as there are, or `accumulation`.
Time: not measured. Recipe: as cvt13_imagenet_384.
"""

from training.configs import cvt13_imagenet_384

CONFIG = cvt13_imagenet_384.CONFIG.replace(
    model="cvtw24",
    weights="runs/cvtw24_imagenet22k_224/model.keras",
)
