"""What is done to training images and labels."""

from __future__ import annotations

import dataclasses

from training.config.fields import (
    AT_LEAST_0,
    AT_LEAST_1,
    FROM_0_TO_1,
    INT32,
    LESS_THAN_1,
    Section,
    setting,
)

AUGMENTERS = ("timm", "keras_cv", "none")


@dataclasses.dataclass(frozen=True)
class AugmentationConfig(Section):
    """What is done to training images and labels.

    Attributes:
        max_shift: Training images are shifted by up to this many pixels in each direction; instead of
            the random crop, for images that are small and of one size.
        crop_scale: Fraction of an image's area in the random resized crop, smallest and largest; none:
            the whole image is resized.
        augmenter: "timm" for RandAugment as in the recipe, "keras_cv" for KerasCV's, or "none".
        flip: Probability of a horizontal flip.
        erase: Probability of random erasing.
        mixup, cutmix: Alpha of the mixing factor's beta distribution; 0 for never. Each batch gets
            either the one or the other.
        mix_images: This many successive images of a batch are mixed with one another and share their
            mixing factor (in the official code, the 256 of one GPU); none: the whole batch.
        label_smoothing: Fraction of a training label that is spread over all classes, in [0, 1).
        repeated_augmentation: How many differently augmented views of each image an epoch has; with 3
            of them it has a third of the images. (In DeiT's sampler the views go to different GPUs,
            here they follow one another in the batch.)
    """

    max_shift: int = setting(0, INT32)
    crop_scale: tuple[float, ...] | None = (0.08, 1.0)
    augmenter: str = setting("timm", choices=AUGMENTERS)
    flip: float = setting(0.5, FROM_0_TO_1)
    erase: float = setting(0.25, FROM_0_TO_1)
    mixup: float = setting(0.8, AT_LEAST_0)
    cutmix: float = setting(1.0, AT_LEAST_0)
    mix_images: int | None = setting(None, AT_LEAST_1)
    label_smoothing: float = setting(0.1, LESS_THAN_1)
    repeated_augmentation: int = setting(1, AT_LEAST_1)

    def __post_init__(self):
        super().__post_init__()
        if self.crop_scale is not None:
            scale = self.crop_scale
            right = "the least and the most share, such as 0.08,1, or none"
            self.check("crop_scale", len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1, right)
            self.check("max_shift", self.max_shift == 0, "0 where `crop_scale` is not none")
