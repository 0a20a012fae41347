"""The authors' weights as presets: their names, and the folders that KerasHub loads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from keras_cvt import weights
from keras_cvt._files import replacing
from keras_cvt.architecture import VARIANTS
from keras_cvt.hub import _internal
from keras_cvt.hub.backbone import CvTBackbone
from keras_cvt.hub.card import Card
from keras_cvt.hub.classifier import CvTImageClassifier
from keras_cvt.hub.preprocessing import CvTImageClassifierPreprocessor, CvTImageConverter
from keras_cvt.weights import PUBLISHED, Published

# Goes into the folders' names: a later one makes them anew.
_FORMAT = 1


def name_of(row: Published) -> str:
    """The name of a preset, such as "cvt13_imagenet_384"."""
    return f"{row.model}_{row.names[0]}".lower().replace("-", "_")


class _Preset(dict):
    """What KerasHub knows of a preset. Its files are made when KerasHub asks where they are."""

    def __init__(self, row: Published):
        stages = VARIANTS[row.model]
        depth = sum(stage.depth for stage in stages)
        super().__init__(
            metadata={
                "description": f"CvT with {depth} blocks for images of {row.image_size} pixels, "
                f"{row.top1} % top-1 on ImageNet in the paper.",
                "path": "cvt",
            },
            kaggle_handle="",
        )
        self._row = row
        self._folder: Path | None = None

    def __getitem__(self, key: str) -> Any:
        if key != "kaggle_handle":
            return super().__getitem__(key)
        # KerasHub asks once for each file; a digest of the weights takes a moment.
        if self._folder is None or not self._folder.is_dir():
            self._folder = _folder_of(self._row)
        return os.fspath(self._folder)


def register() -> None:
    """Makes the names of the published weights known to `from_preset`."""
    _internal.register_presets({name_of(row): _Preset(row) for row in PUBLISHED}, CvTBackbone)


def _folder_of(row: Published) -> Path:
    """The preset made of published weights, downloaded and converted where that was not done yet.

    It is in the folder of Keras' own downloads (`KERAS_HOME`), under the digest of the weights.

    Raises:
        DownloadError: If the weights can't be had.
        CheckpointError: If they are damaged.
    """
    source = weights.open_weights(row)
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    home = Path(os.environ.get("KERAS_HOME") or Path("~/.keras").expanduser())
    folder = home / "models" / "keras_cvt" / f"{name_of(row)}-{digest[:16]}-{_FORMAT}"
    if folder.is_dir():
        return folder
    backbone = CvTBackbone(VARIANTS[row.model], dtype="float32")
    converter = CvTImageConverter((row.image_size, row.image_size), crop=row.crop)
    classifier = CvTImageClassifier(
        backbone,
        num_classes=source.classes,
        preprocessor=CvTImageClassifierPreprocessor(converter),
    )
    source.load(classifier)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as temporary:
        classifier.save_to_preset(temporary)
        Card.of_published(row).write(temporary)
    return folder
