"""Weights of a model: what is published, where it is had, and how a checkpoint fills a model."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import keras

from keras_cvt import checkpoints
from keras_cvt._validation import unknown_choice
from keras_cvt.architecture import VARIANTS, StageConfig, widths_and_depths
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.structure import structure_of, weights_by_path
from keras_cvt.weights import names
from keras_cvt.weights.published import PUBLISHED, Published

logger = logging.getLogger("keras_cvt")

# In this order: a repository that has the first is read from it.
_FILES = ("model.safetensors", "pytorch_model.bin")

_SUFFIXES = (".weights.h5", ".keras", ".safetensors", ".pth", ".pt", ".bin")


class DownloadError(OSError):
    """Published weights that could not be had."""


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
            blocks = f"stage{len(stages)}.blocks."
            found = {
                name.removeprefix(blocks).partition(".")[0]
                for name in self
                if name.startswith(blocks)
            }
            stages.append((self.shape(key)[-1], len(found)))
        return tuple(stages)

    def check_fit(self, stages: Sequence[StageConfig], channels: int, classifier: bool) -> None:
        """Refuses, before a model is built, weights that can't be those of such a model.

        Raises:
            ValueError: saying what the weights are.
        """
        asked = widths_and_depths(stages)
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
        if architecture == widths_and_depths(stages):
            return f"a {variant}"
    widths, depths = zip(*architecture, strict=True)
    return f"a CvT of widths {', '.join(map(str, widths))} and depths {', '.join(map(str, depths))}"


def named_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """A CvT's weights by their official names.

    Args:
        model: A CvT, or a model with one in it.

    Returns:
        The weights of the stages, of the final norm, and of a Dense directly on it, whatever that is
        called; not those of other layers around the CvT.

    Raises:
        ValueError: If the model has no CvT or more than one.
    """
    return {
        names.official(f"{name}/{path}"): variable
        for name, layer in structure_of(model).parts()
        for path, variable in weights_by_path(layer).items()
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
