"""What a run is: a frozen `Config`, found by name in `training/configs`, changed by `key=value`.

Nothing here imports TensorFlow, so that a mistake on the command line is answered at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib
import math
import pkgutil
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from training import configs

MODELS = ("cvt13", "cvt21", "cvtw24", "custom")
INITS = {"trunc_norm": None, "xavier": "glorot_uniform"}  # in keras_cvt's words
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")
AUGMENTERS = ("timm", "keras_cv", "none")
OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
DIVERGENCES = ("stop", "resume")
SCHEDULE_UNITS = ("epoch", "step")

# Fields that may differ between the sessions of one run: they don't change what is computed, but for
# rounding.
_MAY_CHANGE = {"may_change": True}


class ConfigError(ValueError):
    """A run that can't be done as asked. The message is one line, meant for the person who asked."""


class OneLineErrors(argparse.ArgumentParser):
    """A command line, of which a mistake is a `ConfigError`, told in one line without the usage."""

    def error(self, message):
        raise ConfigError(message)


def _may_change(default: Any) -> Any:
    return dataclasses.field(default=default, metadata=_MAY_CHANGE)


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run. Together with the library's version it decides the result, bit for bit.

    Attributes:
        source: where the images come from: "tfds:NAME[/CONFIG]", "folder:PATH" or "digits"; see
            `training.data.sources`.
        image_size: height and width of the images in pixels.
        epochs: passes over the training images until the learning rate has fallen; of each pass, the
            images that don't fill a batch are left out, other ones each time. Or give `steps`.
        batch_size: images per step, over all devices together.
        learning_rate: the highest, reached after the warm-up. It does not depend on the number of
            devices.

        model: one of `MODELS`; "custom" has `dims`, `depths`, `heads` and `patch`.
        dims, depths, heads: channels, number of blocks and attention heads of each stage of a custom
            CvT. The last stage has the class token.
        patch: kernel size, stride and padding of the first stage's embedding, in pixels. The other
            stages have the official 3, 2, 1.
        init: of the linear maps' weights: "trunc_norm", as the official models are, or "xavier", the
            other official option, with which narrow models learn faster.
        drop_path_rate: of the last stage's last block, in [0, 1); none: the model's own.
        weights: to start from: a published name such as "imagenet", or a file. If its classes are not
            those of the images, the head is new. none: random.

        validation_source: where the images come from by which the model is judged; none: `source`.
        train_split, validation_split: names of parts of the sources, such as "train[:90%]"; none:
            the usual ones, see `training.data.sources`.

        max_shift: training images are moved by up to so many pixels in each direction; instead of
            the random crop, for images that are small and of one size.
        crop_scale: share of an image's area in the random resized crop, least and most; none: the
            whole image is resized.
        augmenter: "timm" for RandAugment as in the recipe, "keras_cv" for keras-cv's, or "none".
        flip: probability of a mirrored image.
        erase: probability of random erasing.
        mixup, cutmix: alpha of the mixing factor's distribution; 0 for never; of a batch, either the
            one or the other.
        mix_images: so many successive images of a batch are mixed with one another and share their
            mixing factor (the official code: the 256 of one GPU); none: the whole batch.
        label_smoothing: share of a training label that is spread over all classes, in [0, 1).
        repeated_augmentation: how many differently augmented views of each image an epoch has;
            with 3 of them it has a third of the images. (In DeiT's sampler the views go to different
            GPUs, here they follow one another in the batch.)
        evaluation_crop: share of the side that the centre crop leaves of an image in evaluation; none:
            the whole image is resized, whatever its proportions.

        steps: optimizer steps instead of `epochs`, one of which is none.
        optimizer: "adamw" or "sgd".
        momentum: of SGD.
        learning_rate_images: `learning_rate` is for that many images per step, and scaled with the
            batch; none: it is what it is. (The warm-up's first and the final one are not scaled.)
        warmup_epochs: epochs of linear growth from `warmup_learning_rate`; a fraction too.
        cooldown_epochs: epochs at `final_learning_rate` after the others.
        warmup_learning_rate, final_learning_rate: of the first step, and at the end of the cosine.
        schedule_unit: "epoch" as in the official code, which changes the learning rate after each
            epoch, or "step".
        weight_decay: AdamW's: multiplied by the learning rate in each step. SGD's is added to the
            gradient, as in torch.
        epsilon: AdamW's; the default is torch's, with which the recipe was found. A larger one makes no
            steps of gradients that are nothing but rounding errors.
        clip_norm: largest norm of the whole gradient; none: any.
        accumulation: so many parts of a batch go through the model one after another, and then make
            one step: for batches that do not fit into memory.
        recompute: whether attention and MLPs are calculated again for their gradients, instead of being
            kept: for images that do not fit into memory, at about 15 % more time.
        ema: decay of an exponential moving average of weights and statistics, with which the model
            is then evaluated and saved; none: no average.
        precision: "float32", "bfloat16" or "float16" of activations (weights are float32), or "auto":
            bfloat16 where GPUs or TPUs have it.

        seed: of the initial weights, the order and augmentation of the images, and the drop path.
        strategy: one of `STRATEGIES`, see `training.distribute`.
        logical_cpus: as how many devices TensorFlow sees the CPU; more than one is for trying
            "mirrored" without GPUs.
        jit_compile: whether XLA compiles the steps on one device. TPUs always do.

        data_dir: folder of the prepared tfds data sets; none: tfds' own.
        data_service: address of a tf.data service's dispatcher, such as "grpc://host:5000", that
            prepares the batches; none: each worker its own. The images' order is then not repeated
            exactly.
        max_damaged: so many images that can't be read are skipped; one more stops the run. Each worker
            counts its own, and those that the chief had found before the last checkpoint.
        keep_checkpoints: how many of the latest are kept.
        checkpoint_steps: steps between checkpoints, besides the one after each epoch; none: no more.
        log_steps: steps between the points of TensorBoard's curves.
        max_steps: stop after that many steps as if interrupted, to go on another time; none: at the
            end.
        on_divergence: what to do when the loss or the gradient is no number, or the loss more than
            `max_loss`: "stop", or "resume" from the last checkpoint with other random draws, up to
            three times.
        max_loss: the largest loss that is not taken for a divergence.
    """

    source: str
    image_size: int
    epochs: int | None
    batch_size: int
    learning_rate: float

    model: str = "custom"
    dims: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    patch: tuple[int, ...] = (7, 4, 2)
    init: str = "trunc_norm"
    drop_path_rate: float | None = None
    weights: str | None = None

    validation_source: str | None = None
    train_split: str | None = None
    validation_split: str | None = None

    max_shift: int = 0
    crop_scale: tuple[float, ...] | None = (0.08, 1.0)
    augmenter: str = "timm"
    flip: float = 0.5
    erase: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_images: int | None = None
    label_smoothing: float = 0.1
    repeated_augmentation: int = 1
    evaluation_crop: float | None = 0.875

    steps: int | None = None
    optimizer: str = "adamw"
    momentum: float = 0.9
    learning_rate_images: int | None = None
    warmup_epochs: float = 0
    cooldown_epochs: int = 0
    warmup_learning_rate: float = 1e-6
    final_learning_rate: float = 1e-5
    schedule_unit: str = "step"
    weight_decay: float = 0.0
    epsilon: float = 1e-8
    clip_norm: float | None = None
    accumulation: int = 1
    recompute: bool = _may_change(False)
    ema: float | None = None
    precision: str = "auto"

    seed: int = 0
    strategy: str = _may_change("auto")
    logical_cpus: int = _may_change(1)
    jit_compile: bool = False

    data_dir: str | None = _may_change(None)
    data_service: str | None = _may_change(None)
    max_damaged: int = _may_change(100)
    keep_checkpoints: int = _may_change(2)
    checkpoint_steps: int | None = _may_change(None)
    log_steps: int = _may_change(50)
    max_steps: int | None = _may_change(None)
    on_divergence: str = _may_change("stop")
    max_loss: float = _may_change(100.0)

    def __post_init__(self):
        """Refuses values out of range, and fields that do not fit together.

        Raises:
            ConfigError: with the field, its value and what would be right.
        """
        for key, choices in {
            "model": MODELS,
            "init": list(INITS),
            "augmenter": AUGMENTERS,
            "optimizer": OPTIMIZERS,
            "precision": PRECISIONS,
            "schedule_unit": SCHEDULE_UNITS,
            "strategy": STRATEGIES,
            "on_divergence": DIVERGENCES,
        }.items():
            _choice(key, getattr(self, key), choices)
        for right, (holds, keys) in _RANGES.items():
            for key in keys.split():
                value = getattr(self, key)
                _check(self, key, value is None or holds(value), right)
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(
                f"One of `epochs` and `steps` must be none. Received {self.epochs} and {self.steps}."
            )
        if self.epochs is not None:
            _check(self, "warmup_epochs", self.warmup_epochs < self.epochs, "less than `epochs`")
        if self.crop_scale is not None:
            scale = self.crop_scale
            right = "the least and the most share, such as 0.08,1, or none"
            _check(self, "crop_scale", len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1, right)
            _check(self, "max_shift", self.max_shift == 0, "0 where `crop_scale` is not none")
        for part in ("accumulation", "mix_images"):
            value = getattr(self, part)
            if value is not None and self.batch_size % value:
                raise ConfigError(
                    f"`batch_size` must be a multiple of `{part}`. Received {self.batch_size} and "
                    f"{value}."
                )
        if self.model == "custom":
            _check(self, "dims", len(self.dims) >= 1, "at least one stage's channels")
            _check(self, "patch", len(self.patch) == 3, "kernel size, stride and padding")
        for key in ("depths", "heads"):
            _check(
                self,
                key,
                len(getattr(self, key)) == len(self.dims),
                f"one value for each of the {len(self.dims)} stages of `dims`",
            )
        if self.model != "custom":
            _check(self, "dims", not self.dims, "left out, or `model` custom")

    def falling_steps(self, steps_per_epoch: int) -> int:
        """Steps until the learning rate has fallen, which the cool-down follows."""
        return self.epochs * steps_per_epoch if self.steps is None else self.steps

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them: `from_dict(json.loads(json.dumps(c.to_dict()))) == c`."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }

    def table(self) -> str:
        """The fields, a line each, those with another value than the default marked by a star."""
        rows = [
            (f.name, getattr(self, f.name), getattr(self, f.name) != f.default)
            for f in dataclasses.fields(self)
        ]
        width = max(len(name) for name, _, _ in rows)
        return "\n".join(f"{'*' if other else ' '} {name:{width}}  {v}" for name, v, other in rows)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Config:
        """The config with these fields.

        Raises:
            TypeError: if a field is missing, or unknown.
            ConfigError: for a value out of range.
        """
        return cls(
            **{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()},
        )

    def differences(self, fields: dict[str, Any]) -> list[str]:
        """What keeps a run with this config from going on one with other `fields` (`to_dict`)."""
        may_change = {f.name for f in dataclasses.fields(self) if f.metadata.get("may_change")}
        mine = self.to_dict()
        return [
            f"{key} ({fields.get(key, 'missing')} there, {mine.get(key, 'missing')} asked)"
            for key in sorted({*mine, *fields} - may_change)
            if mine.get(key, "missing") != fields.get(key, "missing")
        ]


_RANGES = {
    "at least 1": (
        lambda value: value >= 1,
        "image_size epochs steps batch_size mix_images repeated_augmentation learning_rate_images "
        "accumulation logical_cpus keep_checkpoints checkpoint_steps log_steps max_steps",
    ),
    "at least 0 and less than 2**31": (lambda value: 0 <= value < 2**31, "max_shift seed"),
    "at least 0": (
        lambda value: value >= 0,
        "mixup cutmix warmup_epochs cooldown_epochs warmup_learning_rate final_learning_rate "
        "weight_decay max_damaged",
    ),
    "more than 0": (lambda value: value > 0, "learning_rate epsilon clip_norm max_loss"),
    "at least 0 and less than 1": (
        lambda value: 0 <= value < 1,
        "drop_path_rate label_smoothing momentum",
    ),
    "more than 0 and less than 1": (lambda value: 0 < value < 1, "ema"),
    "more than 0 and at most 1": (lambda value: 0 < value <= 1, "evaluation_crop"),
    "from 0 to 1": (lambda value: 0 <= value <= 1, "flip erase"),
}


def _choice(key: str, value: str, choices: Sequence[str], what: str = "`{}`") -> None:
    if value not in choices:
        close = difflib.get_close_matches(value, choices, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            f"{what.format(key)} must be one of {', '.join(choices)}. Received {value!r}.{hint}"
        )


def _check(config: Config, key: str, holds: bool, right: str) -> None:
    if not holds:
        raise ConfigError(f"`{key}` must be {right}. Received {getattr(config, key)!r}.")


def names() -> list[str]:
    """The configs that there are, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(configs.__path__))


def load(name: str, overrides: Iterable[str] = ()) -> Config:
    """The config of that name, with `key=value` overrides.

    Raises:
        ConfigError: for an unknown name or key, or a value that doesn't fit its field.
    """
    _choice("--config", name, names(), what="{}")
    return override(importlib.import_module(f"training.configs.{name}").CONFIG, overrides)


def override(config: Config, overrides: Iterable[str]) -> Config:
    """A changed copy of `config`.

    Args:
        overrides: strings `key=value`. The field's type decides how a value is read: an integer, a
            number, true or false, text, a tuple as values with commas between them ("32,64"), and
            "none" where a field may be None.

    Raises:
        ConfigError: as `load`.
    """
    field_types = typing.get_type_hints(Config)
    changes = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes key=value. Received {text!r}.")
        _choice(key, key, list(field_types), what="The key of --set")
        try:
            changes[key] = _parse(value.strip(), field_types[key])
        except ValueError:
            raise ConfigError(
                f"`{key}` must be {_describe(field_types[key])}. Received {value!r}."
            ) from None
    return dataclasses.replace(config, **changes)


def _parse(text: str, kind: Any) -> Any:
    """Reads a value of a field's type; ValueError if it is none."""
    if isinstance(kind, types.UnionType):  # X | None
        return None if text.lower() == "none" else _parse(text, typing.get_args(kind)[0])
    if typing.get_origin(kind) is tuple:
        items = text.removeprefix("(").removesuffix(")").removesuffix(",").split(",")
        return tuple(_parse(item.strip(), typing.get_args(kind)[0]) for item in items)
    if kind is bool:
        return ("false", "true").index(text.lower()) == 1
    value = kind(text)
    if kind is float and not math.isfinite(value):
        raise ValueError
    return value


def _describe(kind: Any) -> str:
    if isinstance(kind, types.UnionType):
        return f"{_describe(typing.get_args(kind)[0])} or none"
    if typing.get_origin(kind) is tuple:
        return f"values with commas between them, each {_describe(typing.get_args(kind)[0])}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]
