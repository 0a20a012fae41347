"""Everything private that the training programs use of Keras, TensorFlow and TFDS, and nothing else.

Each is a small function or class, so that a new version is adapted to here alone.
tests/training/test_internal.py fails when one of them moves something, and says what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.distribute import input_lib
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver
from tensorflow.python.eager import cancellation
from tensorflow.python.framework import config as switches

from keras_cvt._files import replacing

# ---- optimizers of Keras


class ReducedBefore:
    """Mixin for an optimizer whose gradients all replicas share already.

    Keras' own adds them up inside the optimizer, after clipping, and looks for numbers that are not
    finite on the first replica only. `training.engine.step` adds them up before both. If Keras
    renamed this method, gradients would be added up twice, silently.
    """

    def _all_reduce_sum_gradients(self, grads_and_vars):
        return grads_and_vars


def adam_moments(
    optimizer: keras.optimizers.Adam, variable: Any
) -> tuple[keras.Variable, keras.Variable]:
    """The moving averages of a variable's gradient and of its square."""
    index = optimizer._get_variable_index(variable)
    return optimizer._momentums[index], optimizer._velocities[index]


def sgd_momentum(optimizer: keras.optimizers.SGD, variable: Any) -> keras.Variable:
    """The momentum of a variable."""
    return optimizer.momentums[optimizer._get_variable_index(variable)]


def decays(optimizer: keras.Optimizer, variable: Any) -> bool:
    """Whether a variable is not excluded from weight decay."""
    return optimizer._use_weight_decay(variable)


# ---- the training loop of Keras


class StepsOfItsOwn:
    """Mixin for a `keras.Model` that has its own way to run its steps in `fit` and `evaluate`.

    The model has `of_iterator(step)`, which gives a function that takes a batch from an iterator and
    does a step with it.
    """

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            self.train_function = self.of_iterator(self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            self.test_function = self.of_iterator(self.test_step)

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # All is built already. Keras' own takes a batch for it, which fails with several machines.
        pass


# ---- TensorFlow


def op_determinism() -> bool:
    """Whether operations are deterministic: `tf.config.experimental.enable_op_determinism`."""
    return switches.is_op_determinism_enabled()


@contextlib.contextmanager
def without_op_determinism() -> Iterator[None]:
    """Inside, TensorFlow's switch for deterministic operations is off."""
    before = op_determinism()
    switches.disable_op_determinism()
    try:
        yield
    finally:
        if before:
            switches.enable_op_determinism()


class PlainIteration(input_lib.DistributedDatasetsFromFunction):
    """Batches of a strategy whose pipelines are made where operations are not deterministic.

    With that switch, tf.data runs a pipeline on one thread, and nothing in advance, if a function in
    it has what TensorFlow calls a state. The switch counts only when the iterator is made.
    """

    def __iter__(self) -> Any:
        with without_op_determinism():
            return super().__iter__()

    @classmethod
    def of(cls, batches: tf.distribute.DistributedDataset) -> PlainIteration:
        """Turns what `distribute_datasets_from_function` gave into one of these, in place."""
        if not isinstance(batches, input_lib.DistributedDatasetsFromFunction):
            raise TypeError(
                f"{type(batches).__name__} is not what this TensorFlow was known to give"
            )
        batches.__class__ = cls
        return batches


@contextlib.contextmanager
def cancellable() -> Iterator[Callable[[], None]]:
    """Inside, functions that run can be cancelled: by what this gives, from another thread."""
    manager = cancellation.CancellationManager()
    with cancellation.CancellationManagerContext(manager):
        yield manager.start_cancel


def slurm_hosts(nodelist: str) -> list[str]:
    """The hosts of SLURM_STEP_NODELIST, such as "n[1-2],m3"."""
    return slurm_cluster_resolver.expand_hostlist(nodelist)


def slurm_tasks(tasks_per_node: str) -> list[int]:
    """The numbers of tasks of SLURM_STEP_TASKS_PER_NODE, such as "2(x3),1"."""
    return slurm_cluster_resolver.expand_tasks_per_node(tasks_per_node)


def has_python(dataset: tf.data.Dataset) -> bool:
    """Tells whether a data set calls Python, so that only this process can run it."""
    graph = tf.compat.v1.GraphDef.FromString(dataset._as_serialized_graph().numpy())
    nodes = [*graph.node, *(n for function in graph.library.function for n in function.node_def)]
    return any("PyFunc" in node.op for node in nodes)


# ---- tensorflow_datasets, whose `core` is what it writes data sets with. It takes seconds to import:
# only where it is needed.


def split_slices(split: str, counts: dict[str, int]) -> list[tuple[str, slice]]:
    """Resolves a split such as "train[:90%]+test" for parts with these numbers of images.

    Raises:
        ValueError, NotImplementedError: If it is no split of these parts.
    """
    import tensorflow_datasets as tfds

    infos = {
        name: tfds.core.SplitInfo(name=name, shard_lengths=[count], num_bytes=0)
        for name, count in counts.items()
    }
    found = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
    rows = [range(counts[part.splitname])[part.from_ : part.to] for part in found]
    return [
        (part.splitname, slice(of_part.start, of_part.stop))
        for part, of_part in zip(found, rows, strict=True)
    ]


def dataset_not_found() -> type[Exception]:
    """Returns the error of `tfds.builder` for an unknown name."""
    import tensorflow_datasets as tfds

    return tfds.core.DatasetNotFoundError


def imagenet_validation_synsets() -> list[str]:
    """Returns the classes of ImageNet's 50,000 validation images, in the order of their numbers."""
    import tensorflow_datasets as tfds

    path = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt")
    return path.read_text().split()


def record_path(folder: Path, part: str, file_format: str, shard: int, shards: int) -> Path:
    """Returns the path of a record file of the data set "images"."""
    template = _template(folder, part, file_format)
    return Path(template.sharded_filepath(shard_index=shard, num_shards=shards))


def write_dataset_info(
    folder: Path, classes: Sequence[str], shards: dict[str, list[dict[str, int]]], file_format: str
) -> None:
    """Writes what makes record files the data set "images": dataset_info.json and its companions.

    Args:
        folder: Of the record files.
        classes: Names, in label order.
        shards: For each part its files, each a dict of its numbers of "images" and "bytes".
        file_format: "tfrecord" or "array_record".
    """
    import tensorflow_datasets as tfds

    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name="images", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name=""
        ),
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=classes),
                "file_name": tfds.features.Text(),
            }
        ),
        supervised_keys=("image", "label"),
    )
    info.set_file_format(file_format)
    splits = [
        tfds.core.SplitInfo(
            name=name,
            shard_lengths=[shard["images"] for shard in of_part],
            num_bytes=sum(shard["bytes"] for shard in of_part),
            filename_template=_template(folder, name, file_format),
        )
        for name, of_part in shards.items()
    ]
    info.set_splits(tfds.core.SplitDict(splits))
    # This file last: without it, there is no data set.
    with replacing(folder / "dataset_info.json") as temporary:
        info.write_to_directory(temporary.parent)


def _template(folder: Path, part: str, file_format: str) -> Any:
    import tensorflow_datasets as tfds

    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="images", split=part, filetype_suffix=file_format
    )
