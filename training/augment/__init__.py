"""The recipe's augmentation, as stateless TensorFlow: the same key always gives the same image.

What CvT was trained with is timm 0.3.2 (which the official code pins) with
`rand-m9-mstd0.5-inc1`, as DeiT: random resized crop, flip, RandAugment, normalization, random
erasing, and per batch mixup or cutmix. timm leaves color jitter out when it has a RandAugment
policy, so there is none. In a notebook:

    transform = augment.train_transform(image_size=224, seed=1)
    batches = examples.repeat().enumerate()  # (image, one-hot label); numbered over all epochs
    batches = batches.map(lambda i, xy: (transform(i, xy[0]), xy[1]), tf.data.AUTOTUNE)
    batches = batches.batch(64, drop_remainder=True).enumerate()
    batches = batches.map(lambda i, xy: augment.mix(*xy, augment.key(1, i)), tf.data.AUTOTUNE)
    model.fit(batches, steps_per_epoch=100, epochs=10)

A pipeline that decodes only the crop asks `crop_box` with the image's key first, and uses
`train_transform(..., crop=False)`: the result is the same, but for the crop's outermost pixels in
JPEGs with halved color resolution.

Every random step draws from the key it is given and its own number, so that one key serves all
steps of an image, in any order and at any parallelism.

Images between the steps are uint8, rounded as Pillow does; `training/augment/operations.py` says how
closely RandAugment's operations are Pillow's. Resizing differs from Pillow's by 0.1 to 0.2 gray
levels in the mean, see `resize`.

Instead, `augmenter="keras_cv"` takes keras-cv's RandAugment, MixUp and CutMix. They are not this
recipe. Of the fifteen operations they lack Invert, Posterize, Rotate and Sharpness, and have
SolarizeAdd and Solarize as one. At the same magnitude, 9 of 10, they shear by 0.9 (here 0.27), move
by up to 0.9 of the image's side (here by 0.41) and fill by reflection. MixUp and CutMix draw a
lambda and a partner for each image, and CutMix corrects lambda by the box before it is cut off at
the image's edge. Their draws have no keys but come from TensorFlow's global generator: such a run
can't be repeated or resumed exactly.

`python -m benchmarks.augment` measures images per second on one core.
"""

from keras_cvt.images.graph import normalize
from training.augment.augmenters import AUGMENTERS
from training.augment.crop import crop_box, flip, shift
from training.augment.erasing import erase
from training.augment.keys import key
from training.augment.mixing import mix
from training.augment.policy import rand_augment
from training.augment.resizing import resize
from training.augment.transform import train_transform

__all__ = [
    "AUGMENTERS",
    "crop_box",
    "erase",
    "flip",
    "key",
    "mix",
    "normalize",
    "rand_augment",
    "resize",
    "shift",
    "train_transform",
]
