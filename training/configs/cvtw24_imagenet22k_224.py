"""CvT-W24 on ImageNet-22k from scratch, at 224x224.

    python -m training.prepare tars:DIR --output imagenet22k    # once; DIR has the synsets' tars
    python -m training.train --config cvtw24_imagenet22k_224

Accuracy to expect: the paper has none on 22k; after cvtw24_imagenet_384, 87.7 % top-1 on ImageNet-1k.
Hardware: many GPUs or a TPU: an image takes 13 times the work of CvT-13, an epoch has 11 times the
images. Time: not measured. The paper (section 4.1) gives no other number of epochs for 22k than 300;
`--set epochs=90` is what ViT took.

22k has no validation images: one percent of its images is held out.
"""

from training.configs import cvt13_imagenet_224

CONFIG = cvt13_imagenet_224.CONFIG.replace(
    source="tfds:./imagenet22k",
    train_split="train[1%:]",
    validation_split="train[:1%]",
    model="cvtw24",
    weight_decay=0.1,
)
