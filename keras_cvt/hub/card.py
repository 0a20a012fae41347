"""The model card of a preset: a README.md as the Hugging Face hub reads it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_cvt._files import read_json, write_text
from keras_cvt.architecture import stages_from_json, widths_and_depths
from keras_cvt.hub._internal import CARD_FILE
from keras_cvt.weights import Published, describe

PAPER = "[CvT: Introducing Convolutions to Vision Transformers](https://arxiv.org/abs/2103.15808)"
_UNSAID = "Not stated."


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model card says beside the architecture, which is read from the preset.

    Attributes:
        license: As the hub spells it, such as "apache-2.0"; "" if it is not stated.
        recipe: How the model was trained.
        data: With what.
        accuracy: What was measured, on what.
    """

    license: str = ""
    recipe: str = ""
    data: str = ""
    accuracy: str = ""

    @classmethod
    def of_published(cls, row: Published) -> Card:
        data = "ImageNet-22k, then ImageNet-1k" if "22k" in row.names[0] else "ImageNet-1k"
        return cls(
            license="apache-2.0",
            recipe=f"The authors' weights, from `{row.repo}` at revision `{row.revision}` of the "
            f"Hugging Face hub, in another format. The recipe is that of the paper, {PAPER}.",
            data=f"{data}, at {row.image_size} pixels.",
            accuracy=f"The paper reports (Table 3) {row.top1} % top-1 on ImageNet's validation images, "
            f"{row.real} % with the ReaL labels and {row.v2} % on ImageNet V2. These are the paper's "
            "figures; nothing was measured when this preset was made.",
        )

    @classmethod
    def of_run(cls, folder: Path) -> Card:
        """The card of a run of `training.train`, by the config and the report in its folder.

        Raises:
            OSError, ValueError: If one of them can't be read.
        """
        config, report = (read_json(folder / name) for name in ("config.json", "report.json"))
        settings = flat(config)
        chosen = (
            *("epochs", "batch_size", "optimizer", "learning_rate", "weight_decay"),
            *("image_size", "precision", "seed"),
        )
        listed = ", ".join(f"{key} {settings[key]}" for key in chosen if key in settings)
        try:
            accuracy = (
                f"Top-1 {100 * report['top1']:.2f} %, top-5 {100 * report['top5']:.2f} % "
                f"({report['correct']} of {report['images']} validation images right), as the run's "
                "own report has it."
            )
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"{folder / 'report.json'} is no report of a run: {error!r}"
            ) from error
        return cls(
            recipe=f"`python -m training.train` of keras_cvt: {listed}. The rest is in the run's "
            "`config.json`.",
            data=f"`{settings.get('data', settings.get('source', 'not named'))}`.",
            accuracy=accuracy,
        )

    def write(self, preset: str | os.PathLike) -> None:
        """Writes README.md in the folder of a preset."""
        folder = Path(preset)
        config = read_json(folder / "config.json")["config"]
        stages = stages_from_json(config["stages"])
        name = describe(widths_and_depths(stages)).removeprefix("a ")
        metadata = read_json(folder / "metadata.json")
        is_classifier = (folder / "task.json").is_file()
        front = ["library_name: keras-hub"]
        if is_classifier:
            front.append("pipeline_tag: image-classification")
        if self.license:
            front.append(f"license: {self.license}")
        front += ["tags:", "- keras", "- cvt"]
        size = _image_size(folder)
        parts = {
            "Architecture": f"{name[0].upper()}{name[1:]}, the Convolutional vision Transformer of "
            f"{PAPER}: {metadata['parameter_count']:,} parameters in the backbone"
            f"{f', for images of {size[0]}x{size[1]} pixels' if size else ''}.",
            "Recipe": self.recipe or _UNSAID,
            "Data": self.data or _UNSAID,
            "Accuracy": self.accuracy or _UNSAID,
            "License": self.license or _UNSAID,
            "Use": _USE.format(
                kind="ImageClassifier" if is_classifier else "Backbone",
                input="raw pixels, (batch, height, width, 3)"
                if is_classifier
                else "normalized images",
            ),
        }
        text = "\n".join(["---", *front, "---", "", f"# {name}", ""])
        text += "".join(f"\n## {title}\n\n{said}\n" for title, said in parts.items())
        write_text(folder / CARD_FILE, text)


_USE = """```python
import keras_hub
import keras_cvt.hub  # knows the architecture

model = keras_hub.models.{kind}.from_preset("hf://USER/MODEL")
model.predict(images)  # {input}
```"""


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config in groups, without the groups."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        settings.update(flat(value) if isinstance(value, Mapping) else {key: value})
    return settings


def _image_size(folder: Path) -> list[int] | None:
    try:
        return read_json(folder / "image_converter.json")["config"]["image_size"]
    except FileNotFoundError:
        return None
