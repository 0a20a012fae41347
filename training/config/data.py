"""Where the images come from, and how they reach the model."""

from __future__ import annotations

import dataclasses

from keras_cvt.images.preprocessing import OFFICIAL_CROP
from training.config.fields import AT_LEAST_0, CROP, SIDE, Section, setting

ORIENTATIONS = ("exif", "ignore")


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Where the images come from, and how they reach the model.

    Attributes:
        source: The training images: "tfds:NAME[/CONFIG]", "folder:PATH" or "digits"; see
            `training.data.sources`.
        image_size: Height and width of the images in pixels.
        validation_source: The images of the evaluation after each epoch; none: `source`.
        train_split, validation_split: Names of parts of the sources, such as "train[:90%]"; none: the
            usual ones, see `training.data.sources`.
        evaluation_crop: Fraction of the side that the center crop keeps in evaluation; none: the whole
            image is resized, whatever its proportions.
        orientation: "exif" to turn images upright as their EXIF orientation says, as everything else
            that shows pictures does; "ignore" for the official recipe, which learns and evaluates some
            of ImageNet's images lying on their side. It goes for training and for evaluation.
        data_dir: Folder of the prepared TFDS data sets; none: TFDS's own.
        data_service: Address of a tf.data service's dispatcher, such as "grpc://host:5000", that
            prepares the batches; none: each worker prepares its own. The order of the images is then
            not reproducible.
        max_damaged: How many unreadable images are skipped; one more stops the run. Each worker counts
            its own, and those that the chief had found before the last checkpoint.
    """

    source: str
    image_size: int = setting(within=SIDE)
    validation_source: str | None = None
    train_split: str | None = None
    validation_split: str | None = None
    evaluation_crop: float | None = setting(OFFICIAL_CROP, CROP)
    orientation: str = setting("exif", choices=ORIENTATIONS, before="ignore")
    data_dir: str | None = setting(None, may_change=True)
    data_service: str | None = setting(None, may_change=True)
    max_damaged: int = setting(100, AT_LEAST_0, may_change=True)
