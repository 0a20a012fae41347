"""CvT-13 fine-tuned on CIFAR-10, at 384x384.

    python -m training.train --config cvt13_cifar10
    ... --set model=cvt21     # or cvtw24

Accuracy to expect: 98.83 % top-1; CvT-21 99.16 %, CvT-W24 99.39 % (paper, Table 4, from
weights of ImageNet-22k; the published ones were then trained on ImageNet-1k too).
Hardware: one GPU, with `--set accumulation=8` if its memory asks for it. The data set is downloaded.
Time: 5.1 million images. Not measured. The recipe is cvt13_imagenet_384's; 10,000 steps are the
paper's (section 4.1).
"""

from training.configs import cvt13_imagenet_384

CONFIG = cvt13_imagenet_384.CONFIG.replace(
    source="tfds:cifar10",
    weights="imagenet22k-384",
    steps=10_000,
    warmup_epochs=5,
    crop_scale=(0.5, 1.0),  # of 32x32 pixels
)
