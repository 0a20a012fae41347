"""What is evaluated, on which images and devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from keras_cvt import architecture
from keras_cvt.images.preprocessing import size_and_crop
from training.config.data import DataConfig
from training.config.fields import AT_LEAST_1, SIDE, Section, setting
from training.config.run import PRECISIONS

VARIANTS = {name.lower(): name for name in architecture.VARIANTS}
IMAGENET = "tfds:imagenet2012"  # and tfds:imagenet2012_real, which has the same images
STRATEGIES = ("auto", "one_device", "mirrored")


@dataclasses.dataclass(frozen=True)
class Settings(Section):
    """What is evaluated, on which images and devices. None stands for the model's or the run's own.

    Attributes:
        model: A published variant such as "cvt13", a .keras file, or the folder of a finished run.
        weights: Of a published variant: a published name or a checkpoint; None: "imagenet".
        source: The images, see `training.data.sources`; None: those that the run was validated on.
        labels: Names of the model's classes, in the order of its outputs; None: those in the model.
        split: Name of a part of the source, such as "validation[:10%]"; None: the usual one.
        data_dir: Folder of the prepared TFDS data sets; None: TFDS's own.
        image_size: Height and width in pixels; None: what the model is for.
        crop: Fraction of the side that the center crop keeps, from 0.01 to 1; "none": the whole image
            is resized; "official": 0.875 below 384 pixels, else "none"; None: the run's, else
            "official".
        orientation: "exif" or "ignore", as in `training.config.DataConfig`; None: the run's, else
            "ignore" for ImageNet's own images, as in the official evaluation, and "exif" for others.
        batch_size: Images per step, over all devices together.
        precision: One of `training.config.PRECISIONS`; "auto": a file's own, and for published weights
            what the devices are good at.
        strategy: One of `STRATEGIES`, see `training.distribute`.
        max_damaged: How many unreadable images are left out; one more is an error.
    """

    model: str
    weights: str | None = None
    source: str | None = None
    labels: Sequence[str] | None = None
    split: str | None = None
    data_dir: str | None = None
    image_size: int | None = setting(None, SIDE)
    crop: float | str | None = None
    orientation: str | None = None
    batch_size: int = setting(64, AT_LEAST_1)
    precision: str = setting("auto", choices=PRECISIONS)
    strategy: str = setting("auto", choices=STRATEGIES)
    max_damaged: int = 100

    @property
    def run_folder(self) -> Path | None:
        """The folder of the run whose model is evaluated; None if that is another model.

        A published name is one even where a folder has it too.
        """
        folder = Path(self.model)
        return folder if self.model not in VARIANTS and folder.is_dir() else None

    def images(self, image_size: int, run: DataConfig | None) -> DataConfig:
        """The images that are evaluated on.

        Args:
            image_size: What the model is for, in pixels.
            run: The images of the run whose model it is, if it is a run's.

        Raises:
            ConfigError: For a value out of range.
        """
        source, split, data_dir, crop = self.source, self.split, self.data_dir, self.crop
        orientation = self.orientation
        size = image_size if self.image_size is None else self.image_size
        if run is not None:
            if source is None:
                source = run.validation_source or run.source
                split, data_dir = split or run.validation_split, data_dir or run.data_dir
            orientation = orientation or run.orientation
            if crop is None:
                crop = "none" if run.evaluation_crop is None else run.evaluation_crop
        if crop != "none":
            crop = size_and_crop(size, crop or "official")[1]
        if orientation is None:
            orientation = "ignore" if source.startswith(IMAGENET) else "exif"
        return DataConfig(
            source=source,
            validation_split=split,
            data_dir=data_dir,
            image_size=size,
            evaluation_crop=None if crop == "none" else crop,
            orientation=orientation,
            max_damaged=self.max_damaged,
        )
