"""CvT-13 fine-tuned on the Oxford-IIIT Pets, at 384x384.

    python -m training.train --config cvt13_pets
    ... --set model=cvt21     # or cvtw24

Accuracy to expect: 93.25 % top-1; CvT-21 94.03 %, CvT-W24 94.73 % (paper, Table 4, from
weights of ImageNet-22k; the published ones were then trained on ImageNet-1k too).
Hardware: one GPU, with `--set accumulation=8` if its memory asks for it. The data set is downloaded.
Time: 256,000 images. Not measured. The recipe is cvt13_imagenet_384's; 500 steps are the
paper's (section 4.1).
"""

from training.configs import cvt13_imagenet_384

CONFIG = cvt13_imagenet_384.CONFIG.replace(
    source="tfds:oxford_iiit_pet",
    weights="imagenet22k-384",
    steps=500,
    warmup_epochs=7,
)
