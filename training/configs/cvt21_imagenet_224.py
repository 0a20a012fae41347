"""CvT-21 on ImageNet-1k from scratch, at 224x224: the official recipe.

    python -m training.train --config cvt21_imagenet_224

Accuracy to expect: 82.5 % top-1 (paper, Table 3).
Hardware and data: as cvt13_imagenet_224; each image takes 1.6 times the work.
Time: not measured. The recipe differs from CvT-13's in weight decay (paper, section 4.1) and in
repeated augmentation (official file).
"""

from training.configs import cvt13_imagenet_224

CONFIG = cvt13_imagenet_224.CONFIG.replace(model="cvt21", weight_decay=0.1, repeated_augmentation=3)
