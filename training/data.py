"""Batches of images and labels, from the sources of `training.sources`.

A training batch is (images, labels), an evaluation batch (images, targets, weights): images are
float32 (batch, height, width, channels), normalized; labels float32 (batch, classes), each summing
to 1; targets float32 (batch, classes), 1 for each class that is right; weights float32 (batch,), 0
for what does not count.

What a row of a batch shows follows from the seed and the row's number in the run alone. So a run that
goes on after any step sees what it would have seen without a break, and several workers, each with its
part of every batch, see together the batches of one. There are two exceptions: sources without random
access (TFRecord) are dealt out to the workers, so that their order depends on the number of workers;
and with a tf.data service it also depends on which server is faster.

Images that can't be read do not stop a run: see `Damaged`. The next one that can be read stands also in
their place, and nothing else moves.

`python -m training.show_batch` draws a batch, `python -m benchmarks.input` measures the speed.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import socket
from collections.abc import Callable, Iterable

import tensorflow as tf

from training import augment, sources, startup
from training.config import Config, ConfigError

_IMAGENET_CLASSES = 1000
_GROUPS = 2  # prepared at a time: each may have hundreds of images
_READY = 2  # batches
_SERVICE_ANSWERS = 30.0  # seconds

Dataset = tf.data.Dataset


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run learns from, and what it is judged by; the classes are the same."""

    train: sources.Images
    held_out: sources.Images

    @property
    def class_names(self) -> tuple[str, ...]:
        """For each label."""
        return self.train.class_names

    @property
    def channels(self) -> int:
        """3 or 1."""
        return self.train.channels

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, in [0, 1]: what normalization subtracts."""
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Of each channel, in [0, 1]: what normalization divides by."""
        return self.train.std


def load(config: Config) -> Data:
    """The images that the config names.

    Raises:
        ConfigError: if they are not there, or do not fit together or to the config.
    """
    train = sources.load(config.source, "train", config.train_split, config.data_dir)
    judges = config.validation_source or config.source
    held_out = sources.load(judges, "validation", config.validation_split, config.data_dir)
    counts = [len(images.class_names) for images in (train, held_out)]
    # ImageNet's classes may be named by synsets or by words; their order is the same.
    if train.class_names != held_out.class_names and set(counts) != {_IMAGENET_CLASSES}:
        different = sorted({*train.class_names} ^ {*held_out.class_names})[:3]
        raise ConfigError(
            f"{judges} must have the classes of {config.source}, in the same order. Received "
            f"{counts[1]} classes and {counts[0]}. Only in one: {', '.join(different) or 'none'}."
        )
    if train.channels != held_out.channels:
        raise ConfigError(
            f"The images of {judges} must have as many channels as those of {config.source}. Received "
            f"{held_out.channels} and {train.channels}."
        )
    if train.channels != 3 and config.augmenter != "none":
        raise ConfigError(
            f"`augmenter` must be none for {config.source}, whose images have no colours. Received "
            f"{config.augmenter!r}."
        )
    return Data(train, held_out)


def steps_per_epoch(config: Config, data: Data) -> int:
    """Full batches in an epoch, which is as long whatever `config.repeated_augmentation`.

    Raises:
        ConfigError: if there is none.
    """
    steps = data.train.count // config.batch_size
    if steps == 0:
        raise ConfigError(
            f"`batch_size` must be at most the number of training images, {data.train.count}. "
            f"Received {config.batch_size}."
        )
    return steps


def total_steps(config: Config, data: Data) -> int:
    """Of the whole run, with the epochs at the final learning rate."""
    per_epoch = steps_per_epoch(config, data)
    return config.falling_steps(per_epoch) + config.cooldown_epochs * per_epoch


# Training


def training_batches(
    config: Config,
    data: Data,
    damaged: Damaged,
    first_step: int = 0,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
    attempt: int = 0,
) -> Dataset:
    """A worker's batches, from a step of the run on to its last.

    Of the rows of a step, which are `config.batch_size`, each worker has an equal part: the first
    worker the first rows, and so on; and so has each replica of those of its worker. An epoch has each
    image at most once; or, with repeated augmentation, a part of them, as often as that says.

    Args:
        config: the run's.
        data: `load(config)`.
        damaged: is told of images that can't be read.
        first_step: the first to be given.
        worker, workers: this one, from 0, and how many there are.
        replicas: of this worker.
        attempt: 0; another number for other random draws.

    Returns:
        An endless supply but for the run's end: for each step, `replicas` successive batches of
        (images, labels), of `batch_size // workers // replicas` rows. Labels are mixed and smoothed.

    Raises:
        ConfigError: if the batch can't be parted so, or the source can't be read by the tf.data
            service.
    """
    images, seed = data.train, config.seed
    rows, batch = _parts(config.batch_size, "`batch_size`", workers, replicas)
    group = _mix_group(config, rows, workers)
    rows_per_epoch = steps_per_epoch(config, data) * config.batch_size
    steps = total_steps(config, data)
    views = config.repeated_augmentation

    def row_of_run(own: tf.Tensor) -> tf.Tensor:
        """The number of this worker's row among all rows of the run."""
        return own // rows * config.batch_size + worker * rows + own % rows

    # Rows with random access: which image is a matter of calculation.

    def indexed(number: tf.Tensor) -> Dataset:
        own = tf.range(number * group, (number + 1) * group)
        epoch, place = _divide(row_of_run(own), rows_per_epoch)
        order = augment.key(seed, attempt, epoch[0])  # a group is of one step, and so of one epoch
        last = tf.constant(images.count - 1, tf.int64)
        index = tf.random.experimental.index_shuffle(place // views, order, last)
        return Dataset.from_tensor_slices({"epoch": epoch, "place": place, "index": index})

    # Rows without: a resumed epoch is read from its beginning, but not decoded.

    own_per_epoch = rows_per_epoch // workers

    def of_epoch(epoch: tf.Tensor) -> Dataset:
        stream = images.stream(augment.key(seed, attempt, epoch), worker, workers)
        if views > 1:
            stream = stream.flat_map(lambda example: Dataset.from_tensors(example).repeat(views))
        # A worker's share may lack a few images: its first ones come again.
        stream = stream.repeat().take(own_per_epoch).enumerate(epoch * own_per_epoch)
        return stream.skip(tf.maximum(first_step * rows - epoch * own_per_epoch, 0)).map(placed)

    def placed(own: tf.Tensor, example: sources.Example) -> sources.Example:
        epoch, place = _divide(row_of_run(own), rows_per_epoch)
        return {"epoch": epoch, "place": place, **example}

    # Images.

    try:
        transform = augment.train_transform(
            config.image_size,
            seed,
            crop=False,
            augmenter=config.augmenter,
            flip_probability=config.flip,
            erase_probability=config.erase,
            max_shift=config.max_shift,
            interpolation=_interpolation(images),
            mean=images.mean,
            std=images.std,
        )
    except ImportError as error:  # of keras-cv
        raise ConfigError(str(error)) from None

    def image(reader: Callable, example: sources.Example) -> tuple[tf.Tensor, ...]:
        index = (attempt, example["epoch"], example["place"])

        def box(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
            return augment.crop_box(height, width, augment.key(seed, *index), config.crop_scale)

        pixels, targets, name = reader(images, example, config.crop_scale and box)
        own_row = example["epoch"] * rows_per_epoch + example["place"]
        return transform(index, pixels), targets, name, own_row

    # Groups, which are mixed and in which a good image may stand in for a damaged one.

    def of_group(examples: Dataset) -> Dataset:
        """One element: the images together."""
        boldly, carefully = (
            examples.map(
                functools.partial(image, reader), startup.cores(), deterministic=True
            ).batch(group, drop_remainder=True)
            for reader in (read_good, read)
        )
        # Carefully only if an image could not be read: to try each one takes half a millisecond.
        return boldly.ignore_errors(log_warning=False).concatenate(carefully).take(1)

    def mixed(pixels: tf.Tensor, labels: tf.Tensor, names: tf.Tensor, numbers: tf.Tensor):
        pixels, labels = _filled(pixels, labels, names == "")
        pixels, labels = augment.mix(
            pixels,
            labels,
            augment.key(seed, attempt, numbers[0] // group),
            mixup=config.mixup,
            cutmix=config.cutmix,
            smoothing=config.label_smoothing,
            augmenter="keras_cv" if config.augmenter == "keras_cv" else "timm",
        )
        return pixels, labels, names

    if images.at is not None:
        groups = Dataset.range(first_step * rows // group, steps * rows // group)
        groups = _in_turns(groups, lambda number: of_group(indexed(number)))
    else:
        epochs = Dataset.range(
            first_step * rows // own_per_epoch, math.ceil(steps * rows / own_per_epoch)
        )
        examples = epochs.flat_map(of_epoch).take((steps - first_step) * rows)
        groups = _in_turns(
            examples.window(group, drop_remainder=True),
            lambda examples: of_group(Dataset.zip(examples)),
        )
    groups = groups.map(mixed, _GROUPS, deterministic=True)
    if config.data_service is not None:
        groups = _served(groups, config)
    batches = _reported(groups, damaged, in_place_of=group)
    if batch != group:
        batches = batches.rebatch(batch, drop_remainder=True)
    return finished(batches)


def _parts(batch_size: int, what: str, workers: int, replicas: int) -> tuple[int, int]:
    """A worker's and a replica's rows of a batch."""
    if batch_size % (workers * replicas):
        raise ConfigError(
            f"{what} must be a multiple of the number of devices, {workers * replicas}. Received "
            f"{batch_size}."
        )
    return batch_size // workers, batch_size // workers // replicas


def _mix_group(config: Config, rows: int, workers: int) -> int:
    """How many successive rows are mixed with one another."""
    if config.mix_images is not None:
        if rows % config.mix_images:
            raise ConfigError(
                f"`mix_images` must divide the images per worker and step, {config.batch_size} / "
                f"{workers} = {rows}. Received {config.mix_images}."
            )
        return config.mix_images
    if workers > 1 and (config.mixup or config.cutmix):
        raise ConfigError(
            f"`mix_images` must be a number that divides the images per worker and step, "
            f"{config.batch_size} / {workers} = {rows}: a batch of several workers can't be mixed as a "
            "whole. Received none."
        )
    return rows


def _in_turns(groups: Dataset, prepare: Callable[..., Dataset]) -> Dataset:
    """What a data set for each group prepares, in order."""
    return groups.interleave(
        prepare,
        cycle_length=_GROUPS,
        block_length=1,
        num_parallel_calls=_GROUPS,
        deterministic=True,
    )


def _divide(number: tf.Tensor, by: int) -> tuple[tf.Tensor, tf.Tensor]:
    return number // by, number % by


def _filled(images: tf.Tensor, labels: tf.Tensor, good: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The rows, but instead of one that is not good the next good one; after the last, the first."""

    def fill():
        places = tf.where(good)[:, 0]
        following = tf.searchsorted(places, tf.range(tf.size(good, tf.int64), dtype=tf.int64))
        chosen = tf.gather(places, following % tf.size(places))
        return tf.gather(images, chosen), tf.gather(labels, chosen)

    # If none is good, the run ends when it is reported.
    return tf.cond(
        tf.reduce_all(good) | ~tf.reduce_any(good),
        lambda: (tf.identity(images), tf.identity(labels)),
        fill,
    )


# Evaluation


def evaluation_batches(
    config: Config,
    images: sources.Images,
    damaged: Damaged,
    batch_size: int,
    worker: int = 0,
    workers: int = 1,
    replicas: int = 1,
) -> Dataset:
    """A worker's batches of images to be judged by, in the source's order.

    Over all workers and replicas each image is there exactly once with weight 1; but 0 if it can't be
    read, or no class is right for it. Rows that fill up the last batches have weight 0 too.

    Args:
        config: the run's.
        images: such as `load(config).held_out`.
        damaged: is told of images that can't be read.
        batch_size: of all workers together, which part it as in `training_batches`.
        worker, workers: this one, from 0, and how many there are.
        replicas: of this worker.

    Returns:
        Batches of (images, targets, weights), all of the same size, and as many for each worker.

    Raises:
        ConfigError: if the batch can't be parted so.
    """
    rows, batch = _parts(batch_size, "The evaluation batch", workers, replicas)
    steps = math.ceil(images.count / batch_size)

    def row(example: sources.Example) -> tuple[tf.Tensor, ...]:
        pixels, targets, name = read(images, example)
        pixels = evaluation_image(
            pixels, config.image_size, config.evaluation_crop, _interpolation(images)
        )
        counts = tf.cast((name == "") & tf.reduce_any(targets > 0), tf.float32)
        return augment.normalize(pixels, images.mean, images.std), targets, counts, name

    if images.at is not None:
        examples = Dataset.range(images.count).map(lambda index: (index, {"index": index}))
    else:
        # Each worker reads all, so that the rows are the same with any number of them.
        examples = images.stream(None, 0, 1).enumerate()
    own = examples.filter(lambda number, _: number % batch_size // rows == worker)
    of_last = images.count - (steps - 1) * batch_size - worker * rows
    padding = min(max(rows - of_last, 0), rows)

    judged = own.map(lambda _, example: row(example), tf.data.AUTOTUNE, deterministic=True)
    nothing = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), judged.element_spec)
    batches = judged.concatenate(Dataset.from_tensors(nothing).repeat(padding)).batch(
        batch, drop_remainder=True
    )
    return finished(_reported(batches, damaged))


def evaluation_image(
    image: tf.Tensor, size: int, crop: float | None, interpolation: str = "bicubic"
) -> tf.Tensor:
    """Prepares an image as `keras_cvt.imagenet.load_image` does, to 0.25 gray levels in the mean.

    Args:
        image: (height, width, channels), uint8.
        size: height and width of the result.
        crop: the short side is resized to `int(size / crop)` pixels before the centre is cut out;
            None: the whole image is resized, whatever its proportions.
        interpolation: of `augment.resize`.

    Returns:
        uint8 (size, size, channels).
    """
    if crop is None:
        return augment.resize(image, size, interpolation)
    height, width = tf.unstack(tf.shape(image)[:2])
    short = int(size / crop)
    # Torchvision's rounding: the long side's length is truncated, a half offset goes to the even one.
    full = tf.stack(
        [tf.maximum(short, short * height // width), tf.maximum(short, short * width // height)]
    )
    top, left = tf.unstack(tf.cast(tf.round((full - size) / 2), tf.int32))
    image = augment.resize(image, full, interpolation)
    return tf.ensure_shape(image[top : top + size, left : left + size], (size, size, None))


# Reading


def _interpolation(images: sources.Images) -> str:
    """Bicubic for photos; it would draw edges around the strokes of tiny drawings."""
    return "bicubic" if images.channels == 3 else "bilinear"


def read(
    images: sources.Images, row: sources.Example, box: Callable | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reads and decodes an image, or the part of it that `box` of its height and width gives.

    Returns:
        Pixels, uint8 (height, width, channels); float32 (classes,), 1 where a class is right; and the
        name if the image can't be read, else "". Such an image is black and has no class.
    """

    nothing = (
        tf.zeros((1, 1, images.channels), tf.uint8),
        tf.zeros((len(images.class_names),)),
        tf.constant(False),
    )
    # The only place where TensorFlow has a "try" is a data set: this one has an image or none.
    tried = Dataset.from_tensors(row).map(
        lambda row: (*read_good(images, row, box)[:2], tf.constant(True))
    )
    tried = tried.ignore_errors(log_warning=False).concatenate(Dataset.from_tensors(nothing))
    pixels, targets, good = tried.take(1).get_single_element()
    name = tf.cond(good, lambda: tf.constant(""), lambda: _example(images, row)["name"])
    return pixels, targets, tf.ensure_shape(name, ())


def read_good(
    images: sources.Images, row: sources.Example, box: Callable | None = None
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """As `read`, but faster; an image that can't be read is an error."""
    found = _example(images, row)
    pixels = tf.ensure_shape(_decode(found["image"], box), (None, None, images.channels))
    targets = tf.reduce_sum(tf.one_hot(found["labels"], len(images.class_names)), axis=0)
    return pixels, tf.minimum(targets, 1.0), tf.constant("")


def _example(images: sources.Images, row: sources.Example) -> sources.Example:
    return row if images.at is None else images.at(row["index"])


def _decode(image: tf.Tensor, box: Callable | None) -> tf.Tensor:
    if image.dtype == tf.uint8:
        return _cut(image, box)

    # TensorFlow's own choice is a faster transform, that differs by some gray levels from Pillow's.
    exact = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}

    def jpeg() -> tf.Tensor:
        if box is None:
            return tf.io.decode_jpeg(image, **exact)
        shape = tf.io.extract_jpeg_shape(image)
        return tf.io.decode_and_crop_jpeg(image, box(shape[0], shape[1]), **exact)

    def other() -> tf.Tensor:
        return _cut(tf.io.decode_image(image, channels=3, expand_animations=False), box)

    return tf.cond(tf.io.is_jpeg(image), jpeg, other)


def _cut(image: tf.Tensor, box: Callable | None) -> tf.Tensor:
    if box is None:
        return image
    shape = tf.shape(image)
    top, left, height, width = tf.unstack(box(shape[0], shape[1]))
    return image[top : top + height, left : left + width]


class DamagedError(ConfigError):
    """More images can't be read than the run may skip. The message is one line."""


class Damaged:
    """Counts the images that can't be read, and logs the name of each once.

    Attributes:
        limit: so many are skipped; one more is an error.
        names: of the images that can't be read, in the order in which they were found; the values mean
            nothing. Those with which it is made are known already.
        error: that stops the run, or None. TensorFlow hides it behind an error of its own.
    """

    def __init__(self, limit: int, names: dict[str, None] | None = None):
        self.limit = limit
        self.names = {} if names is None else names
        self.error: DamagedError | None = None

    def report(self, names: Iterable[bytes], in_place_of: int | None = None) -> None:
        """Notes images of a batch that can't be read.

        Args:
            names: theirs.
            in_place_of: so many images can't all be damaged: none would be left to stand in.

        Raises:
            DamagedError: if the run may not go on.
        """
        names = [name.decode(errors="backslashreplace") for name in names]
        for name in dict.fromkeys(names):
            if name not in self.names:
                self.names[name] = None
                logging.getLogger(__name__).warning("%s can't be read, and is skipped.", name)
        first = ", ".join(list(self.names)[:3]) + (", ..." if len(self.names) > 3 else "")
        if len(self.names) > self.limit:
            self.error = DamagedError(
                f"{len(self.names)} images can't be read; `max_damaged` is {self.limit}: {first}"
            )
        elif in_place_of is not None and len(names) == in_place_of:
            self.error = DamagedError(
                f"All of {in_place_of} successive images can't be read: {first}"
            )
        if self.error is not None:
            raise self.error


def _reported(batches: Dataset, damaged: Damaged, in_place_of: int | None = None) -> Dataset:
    """Tells `damaged` of the names that are the batches' last part, and leaves that out."""

    def report(names: tf.Tensor) -> tf.Tensor:
        damaged.report(names, in_place_of)
        return True

    def check(*batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        *batch, names = batch
        names = tf.boolean_mask(names, names != "")
        reported = tf.cond(
            tf.size(names) > 0,
            lambda: tf.numpy_function(report, [names], tf.bool),
            lambda: tf.constant(True),
        )
        with tf.control_dependencies([reported]):
            return tuple(tf.identity(part) for part in batch)

    return batches.map(check)


# The data sets of TensorFlow


def _served(groups: Dataset, config: Config) -> Dataset:
    """The same, prepared by the servers of a tf.data service.

    They part the groups (of TFRecord, the epochs) among them as each has time: all are prepared once,
    in no certain order; those of a server that fails are lost.

    Raises:
        ConfigError: if only this process can read the source, or there is no service.
    """
    if _has_python(groups):
        raise ConfigError(
            f"`data_service` can't be used with {config.source} and {config.augmenter!r}: they need "
            "Python in this process. Take TFRecord or folders, or `data_service` none."
        )
    protocol, _, address = config.data_service.partition("://")
    host, _, port = address.rpartition(":")
    try:
        if not protocol or not host:
            raise ValueError("it lacks a part")
        # TensorFlow itself would wait for it, for as long as it takes, and say nothing.
        socket.create_connection((host, int(port)), _SERVICE_ANSWERS).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"`data_service` must be the address of a dispatcher that runs, such as grpc://host:5000. "
            f"Received {config.data_service!r}: {error}."
        ) from None
    service = tf.data.experimental.service
    return groups.apply(
        service.distribute(
            processing_mode=service.ShardingPolicy.DYNAMIC, service=config.data_service
        )
    )


def _has_python(dataset: Dataset) -> bool:
    graph = tf.compat.v1.GraphDef.FromString(dataset._as_serialized_graph().numpy())
    nodes = [*graph.node, *(n for function in graph.library.function for n in function.node_def)]
    return any("PyFunc" in node.op for node in nodes)


def finished(batches: Dataset) -> Dataset:
    """The same, prepared in advance, in order, on all of the processor."""
    options = tf.data.Options()
    options.deterministic = True
    # Images are prepared side by side: to part each operation as well only costs.
    options.threading.max_intra_op_parallelism = 1
    # Two more than there are cores: some wait for a batch to be put together.
    options.threading.private_threadpool_size = startup.cores() + 2
    # Its rewriting fails with what keras-cv adds to a data set inside another.
    options.experimental_optimization.map_and_batch_fusion = False
    # The workers' parts are made here: a strategy must not part them again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.prefetch(_READY).with_options(options)
