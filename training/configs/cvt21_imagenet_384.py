"""CvT-21 on ImageNet-1k at 384x384, from the weights for 224x224.

    python -m training.train --config cvt21_imagenet_384

Accuracy to expect: 83.3 % top-1 (paper, Table 3); from 22k, 84.9 %.
Hardware, time and recipe: as cvt13_imagenet_384; each image takes 1.5 times the work.
"""

from training.configs import cvt13_imagenet_384

CONFIG = cvt13_imagenet_384.CONFIG.replace(model="cvt21")
