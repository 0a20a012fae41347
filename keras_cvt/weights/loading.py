"""How a checkpoint, published or in a file, fills a model."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_cvt import checkpoints
from keras_cvt._validation import unknown_choice
from keras_cvt.architecture import VARIANTS, StageConfig, widths_and_depths
from keras_cvt.checkpoints import CheckpointError
from keras_cvt.layers import get_activation
from keras_cvt.structure import Structure, structure_of, weights_by_path
from keras_cvt.weights import configuration, downloads, names
from keras_cvt.weights.published import PUBLISHED, Published

logger = logging.getLogger("keras_cvt")

_SUFFIXES = (".weights.h5", ".keras", ".safetensors", ".pth", ".pt", ".bin")


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

    Attributes:
        layers: Of a `.keras` file, the configs of the CvT's layers by their names; empty for other
            files, which have weights alone.
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
            self.layers = self._configured_layers()
        if self.ignored:
            logger.warning(
                "%s: no weights of a model are in %s; left out.", self.path, ", ".join(self.ignored)
            )

    def _configured_layers(self) -> dict[str, dict[str, Any]]:
        config = self.checkpoint.config
        try:
            return {} if config is None else configuration.of_file(config)
        except (LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.path}: its config.json is damaged: {error!r}") from error

    @contextlib.contextmanager
    def _discarding(self):
        try:
            yield
        except CheckpointError as error:
            if self.downloaded:
                raise downloads.damaged(self.path, error) from error
            raise

    @property
    def classes(self) -> int | None:
        """Number of classes of the classifier; None if there is none."""
        return self.shape("head.bias")[0] if "head.bias" in self else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of these classes, which a `.keras` file may have; None if there are none."""
        config, classes = self.checkpoint.config, self.classes
        if config is None or classes is None:
            return None
        try:
            return configuration.class_names(config, classes)
        except (LookupError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self.path}: its config.json is damaged: {error!r}") from error

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

    def check_fit(
        self,
        stages: Sequence[StageConfig],
        channels: int,
        classifier: bool,
        activation: Any = "quick_gelu",
    ) -> None:
        """Refuses, before a model is built, weights that can't be those of such a model.

        Args:
            stages: As `CvT` takes them.
            activation: As `CvT` takes it.
            channels: Of the images.
            classifier: Whether the model ends in the classifier.

        Raises:
            ValueError: saying what the weights are.
        """
        options = {"activation": keras.activations.serialize(get_activation(activation))}
        self.check_stages(stages, **options)
        found = self.shape("stage0.patch_embed.proj.weight")[2]
        if found != channels:
            raise ValueError(
                f"{self.path}: the weights are for images of {found} channels, the model for "
                f"{channels}."
            )
        if classifier and self.classes is None:
            raise ValueError(f"{self.path} has no classifier. Use include_top=False.")

    def check_stages(self, stages: Sequence[StageConfig], **options: Any) -> None:
        """Refuses weights that can't be those of a model of these stages.

        Args:
            stages: Of the model.
            options: As `configuration.of_stages` takes them.

        Raises:
            ValueError: saying what the weights are.
        """
        asked = widths_and_depths(stages)
        if self.architecture() != asked:
            raise ValueError(
                f"{self.path}: this is {describe(self.architecture())}. The model is "
                f"{describe(asked)}."
            )
        self._check_functions(configuration.of_stages(stages, **options))

    def _check_functions(self, model: configuration.Configs) -> None:
        """Refuses a model that would compute something else with these weights than their own does."""
        found = configuration.differences(self.layers, model)
        if found:
            raise ValueError(
                f"{self.path} has the weights of another model: {'; '.join(found)}. With them, the "
                "model would compute something else."
            )

    def _check_classifier(self, structure: Structure) -> None:
        """Refuses a classifier that read something else in the file's model than in this one."""
        config = self.checkpoint.config
        name = f"{self.prefix}head".rpartition("/")[2]
        theirs = None if config is None else configuration.read_by_classifier(config, name)
        ours = configuration.read_by(structure)
        if None not in (theirs, ours) and theirs != ours:
            raise ValueError(
                f"{self.path} has the weights of another model: its classifier reads "
                f"{' of '.join(theirs)} of the last block, that of {structure.model.name!r} "
                f"{' of '.join(ours)}. Use include_top=False, or `classes` for a new classifier."
            )

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
            ValueError: naming what is missing, left over, of another shape, or of integers, such as
                another program's quantized weights.
            CheckpointError: for damaged data, and for values that are not finite.
        """
        structure = structure_of(model)
        self._check_functions(configuration.of_model(structure))
        variables = _named_variables(structure)
        if "head.bias" in variables and variables["head.bias"].shape[0] != self.classes:
            logger.warning(
                "%s is for %s classes: the classifier of %s, for %d, is new and has to be trained.",
                self.path,
                self.classes,
                model.name,
                variables["head.bias"].shape[0],
            )
            del variables["head.weight"], variables["head.bias"]
        if "head.weight" in variables:
            self._check_classifier(structure)
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
            "of another kind of numbers": [
                f"{name} {self.dtype(name)} for {variable.dtype}"
                for name, variable in variables.items()
                if name in self
                and _is_float(self.dtype(name)) != keras.backend.is_float_dtype(variable.dtype)
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
                with np.errstate(over="ignore"):  # which is an error in the next line
                    values = self[name].astype(variable.dtype, copy=False)
                if not np.isfinite(values).all():
                    raise CheckpointError(
                        f"{self.path}: {name} has values that are not finite in {variable.dtype}, "
                        "such as a run that diverged leaves behind."
                    )
                variable.assign(values)


def _is_float(dtype: np.dtype) -> bool:
    return dtype.kind not in "biuc"  # those that NumPy does not know, such as bfloat16, are "V"


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
    return _named_variables(structure_of(model))


def _named_variables(structure: Structure) -> dict[str, keras.Variable]:
    return {
        names.official(f"{name}/{path}"): variable
        for name, layer in structure.parts()
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
    return Weights(downloads.download(source), downloaded=True)
