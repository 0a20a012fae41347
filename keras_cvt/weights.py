"""Weights of a model: what is published, where it is had, and how a checkpoint fills a model."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_cvt import checkpoints, config, names
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.config import VARIANTS, StageConfig, unknown_choice

logger = logging.getLogger("keras_cvt")

# In this order: a repository that has the first is read from it.
_FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".weights.h5", ".keras", ".safetensors", ".pth", ".pt", ".bin")


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights that the authors published, all for the 1000 classes of ImageNet-1k.

    Attributes:
        model: name of the model's constructor.
        names: what `weights` calls them.
        repo: repository on the Hugging Face hub.
        revision: its commit: the whole one where it is known, otherwise "main".
        image_size: pixels, of training and evaluation.
        crop: fraction of the short side that the official evaluation keeps; None resizes straight.
        top1, real, v2: the paper's accuracy in percent (Table 3) on ImageNet's validation images,
            with the ReaL labels, and on ImageNet V2 (matched frequency).
    """

    model: str
    names: tuple[str, ...]
    repo: str
    revision: str
    image_size: int
    crop: float | None
    top1: float
    real: float
    v2: float


# Where the revision is "main", only the first digits of the commit are known, which do not do.
# fmt: off
_22K = "imagenet22k-384"
PUBLISHED = (
    Published("CvT13", ("imagenet",), "microsoft/cvt-13",
              "84e365a5f6a5ca987486abb25f3d8e5265cdc44d", 224, 0.875, 81.6, 86.7, 70.4),
    Published("CvT13", ("imagenet-384",), "microsoft/cvt-13-384",
              "a14331452cabd82f5ba2f8efa77011b78b093f21", 384, None, 83.0, 87.9, 71.9),
    Published("CvT13", (_22K,), "microsoft/cvt-13-384-22k", "main", 384, None, 83.3, 88.7, 72.9),
    Published("CvT21", ("imagenet",), "microsoft/cvt-21", "main", 224, 0.875, 82.5, 87.2, 71.3),
    Published("CvT21", ("imagenet-384",), "microsoft/cvt-21-384", "main", 384, None, 83.3, 87.7, 71.9),
    Published("CvT21", (_22K,), "microsoft/cvt-21-384-22k", "main", 384, None, 84.9, 89.8, 75.6),
    Published("CvTW24", (_22K, "imagenet"), "microsoft/cvt-w24-384-22k", "main",
              384, None, 87.7, 90.6, 78.8),
)
# fmt: on


class DownloadError(OSError):
    """Published weights that could not be had."""


def table() -> str:
    """The published weights as a table: `print(keras_cvt.weights.table())`."""
    head = ("model", "weights=", "pixels", "crop", "top-1", "ReaL", "V2", "repository", "revision")
    rows = [
        (
            row.model,
            " or ".join(row.names),
            str(row.image_size),
            "none" if row.crop is None else str(row.crop),
            str(row.top1),
            str(row.real),
            str(row.v2),
            row.repo,
            row.revision[:12],
        )
        for row in PUBLISHED
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    )


def names_of(model: str) -> str:
    """The names of a model's published weights, as a phrase."""
    rows = [row for row in PUBLISHED if row.model == model]
    return ", ".join(f'"{name}" ({row.image_size} pixels)' for row in rows for name in row.names)


def find(weights: str | os.PathLike | Published | None, model: str | None = None):
    """What the argument `weights` of a model means, without opening it.

    Args:
        weights: None; the name of published weights; the path of a file; or open `Weights`.
        model: the constructor asked. It knows names; `CvT` knows none.

    Returns:
        None, a row of `PUBLISHED`, a path, or the open weights.

    Raises:
        ValueError: for what is neither a name nor a file.
    """
    if weights is None or isinstance(weights, (Published, Weights)):
        return weights
    if not isinstance(weights, (str, os.PathLike)):
        raise ValueError(f"`weights` must be None, a name or a path. Received {weights!r}.")
    for row in PUBLISHED:
        if row.model == model and os.fspath(weights) in row.names:
            return row
    path = Path(weights)
    if path.is_file() or path.name.endswith(_SUFFIXES):
        return path
    known = [name for row in PUBLISHED if row.model == model for name in row.names]
    choices = unknown_choice("weights", os.fspath(weights), [None, *known])
    raise ValueError(f"{choices} Or the path of a file ({', '.join(_SUFFIXES)}).")


class Weights(names.NamedWeights):
    """The weights in a file, ready to fill a model.

    Args:
        path: of any file that `checkpoints.read` reads.
        downloaded: whether the file is a download, to be deleted if it turns out to be damaged.
    """

    def __init__(self, path: str | os.PathLike, downloaded: bool = False):
        self.path = Path(path)
        self.downloaded = downloaded
        with self._discarding():
            super().__init__(checkpoints.read(self.path))
            if "stage0.patch_embed.proj.weight" not in self:
                some = ", ".join(list(self)[:3])
                raise CheckpointError(
                    f"{self.path} is no checkpoint of a CvT: it has no "
                    f"stage0.patch_embed.proj.weight or the like. It has {some}, ..."
                )

    @contextlib.contextmanager
    def _discarding(self):
        try:
            yield
        except CheckpointError as error:
            if not self.downloaded:
                raise
            # The hub's cache keeps the data apart, and a link to it under the file's name.
            for path in {self.path.resolve(), self.path}:
                path.unlink(missing_ok=True)
            raise CheckpointError(
                f"The download was damaged and has been deleted; try again. {error}"
            ) from error

    @property
    def classes(self) -> int | None:
        """Number of classes of the classifier; None if there is none."""
        return self.shape("head.bias")[0] if "head.bias" in self else None

    def architecture(self) -> tuple[tuple[int, int], ...]:
        """(embed_dim, depth) of each stage."""
        stages = []
        while (key := f"stage{len(stages)}.patch_embed.proj.weight") in self:
            block = re.compile(rf"stage{len(stages)}\.blocks\.(\d+)\.")
            found = {match[1] for name in self if (match := block.match(name))}
            stages.append((self.shape(key)[-1], len(found)))
        return tuple(stages)

    def check_fit(self, stages: Sequence[StageConfig], channels: int, classifier: bool) -> None:
        """Refuses, before a model is built, weights that can't be those of such a model.

        Raises:
            ValueError: saying what the weights are.
        """
        asked = config.architecture(stages)
        if self.architecture() != asked:
            raise ValueError(
                f"{self.path}: this is {describe(self.architecture())}. The model is "
                f"{describe(asked)}."
            )
        found = self.shape("stage0.patch_embed.proj.weight")[2]
        if found != channels:
            raise ValueError(
                f"{self.path}: the weights are for images of {found} channels, the model for "
                f"{channels}."
            )
        if classifier and self.classes is None:
            raise ValueError(f"{self.path} has no classifier. Use include_top=False.")

    def check_classes(self, labels: int) -> None:
        """Refuses weights whose classifier would be made anew, where no training follows.

        Raises:
            ValueError: if the number of classes is another.
        """
        if self.classes != labels:
            raise ValueError(
                f"{self.path} is for {self.classes} classes, but there are {labels} labels. Name the "
                "weights' own classes (--labels FILE, a name on each line)."
            )

    def load(self, model: keras.Model) -> None:
        """Fills all weights of a model.

        What the model has not of final norm and classifier is left out. A classifier of another
        number of classes stays as it was made, and the log says so. Apart from these, both sides must
        be used up exactly, which is checked before the first weight changes.

        Raises:
            ValueError: naming what is missing, left over or of another shape.
            CheckpointError: for damaged data.
        """
        variables = named_variables(model)
        if "head.bias" in variables and variables["head.bias"].shape[0] != self.classes:
            logger.warning(
                "%s is for %s classes: the classifier of %s, for %d, is new and has to be trained.",
                self.path,
                self.classes,
                model.name,
                variables["head.bias"].shape[0],
            )
            del variables["head.weight"], variables["head.bias"]
        optional = ("norm.", "head.")
        problems = {
            "missing from the file": [name for name in variables if name not in self],
            "of the file not in the model": [
                name for name in self if name not in variables and not name.startswith(optional)
            ],
            "of another shape": [
                f"{name} {self.shape(name)} for {tuple(variable.shape)}"
                for name, variable in variables.items()
                if name in self and self.shape(name) != tuple(variable.shape)
            ],
        }
        if any(problems.values()):
            text = "; ".join(
                f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
                for what, found in problems.items()
                if found
            )
            raise ValueError(f"{self.path} does not fit {model.name!r}: {text}.")
        with self._discarding():
            for name, variable in variables.items():
                variable.assign(self[name].astype(variable.dtype, copy=False))


def describe(architecture: tuple[tuple[int, int], ...]) -> str:
    """The variant's name with its article, or the widths and depths of what is no variant."""
    for variant, stages in VARIANTS.items():
        if architecture == config.architecture(stages):
            return f"a {variant}"
    widths, depths = zip(*architecture, strict=True)
    return f"a CvT of widths {', '.join(map(str, widths))} and depths {', '.join(map(str, depths))}"


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """A CvT's weights by their official names; not those of what was put before or after it."""
    return {
        # From the layer's own name on: the whole path has any name scope around it, too.
        names.official(variable.path[variable.path.index(f"{layer.name}/") :]): variable
        for layer in model.layers
        if re.fullmatch(r"stage\d+_.*|norm|head", layer.name)
        for variable in layer.weights
    }


def open_weights(source: Published | Path | Weights, channels: int = 3) -> Weights:
    """Opens what `find` found, downloading it where needed.

    Args:
        source: as `find` returns it, but not None.
        channels: of the images; published weights are for 3, which is checked before a download.

    Raises:
        ValueError: for published weights and other images.
        FileNotFoundError: for a file that is not there.
        CheckpointError: for one that is damaged, or no checkpoint of a CvT.
        DownloadError: if published weights can't be had.
    """
    if isinstance(source, Weights):
        return source
    if isinstance(source, Path):
        return Weights(source)
    if channels != 3:
        raise ValueError(
            f"The weights {source.names[0]!r} are for images of 3 channels, the model for {channels}."
        )
    # Imported late: it takes longer than the rest of this package.
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    reasons = []
    offline = False
    for file in _FILES:
        try:
            path = huggingface_hub.hf_hub_download(
                source.repo, file, revision=source.revision, local_files_only=offline
            )
        except EntryNotFoundError as error:
            reasons.append(f"{file}: {error}")
            # Without a network, the client has retried for a while; the cache may have the other.
            offline = isinstance(error, LocalEntryNotFoundError)
        except Exception as error:  # whatever the HTTP library below the hub's client raises
            reasons.append(f"{file}: {error}")
            break
        else:
            return Weights(path, downloaded=True)
    reasons = "\n  ".join(reasons)
    raise DownloadError(
        f"The weights {source.names[0]!r} of {source.model} could not be had from {source.repo} at "
        f"revision {source.revision} of {huggingface_hub.constants.ENDPOINT}:\n  {reasons}\n"
        "Without a network, copy the hub's cache from a machine that has it (HF_HOME says where it "
        "is), or give the path of a checkpoint: weights='FILE'. Where the hub can't be reached, "
        "HF_ENDPOINT names a mirror. weights=None makes a model with random weights."
    )
