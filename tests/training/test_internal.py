"""What training/ uses of Keras, TensorFlow and TFDS though it is private is there, and does the same.

A test that fails here after an update names what has moved: adapt training/_internal.py, and nothing
else.
"""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config as switches

from training import _internal, optim
from training.distribute import distributed
from training.engine.step import Trainer

MOVED = (
    "Keras, TensorFlow or tensorflow_datasets has moved something. Adapt training/_internal.py: "
)


def small_model() -> keras.Model:
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])


@pytest.mark.parametrize("kind", [optim.AdamW, optim.SGD])
def test_keras_asks_the_optimizer_to_add_up_gradients_which_ours_does_not(kind):
    """Were the method renamed, Keras would add up gradients that are sums already, silently."""
    method = "_all_reduce_sum_gradients"
    assert method in vars(_internal.ReducedBefore)
    assert callable(getattr(keras.optimizers.Optimizer, method, None)), MOVED + "ReducedBefore"
    model, asked = small_model(), []

    class Noting(kind):
        def _all_reduce_sum_gradients(self, grads_and_vars):
            asked.append(len(list(grads_and_vars)))
            return super()._all_reduce_sum_gradients(grads_and_vars)

    optimizer = Noting(learning_rate=0.1)
    optimizer.build(model.trainable_variables)
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)
    assert asked == [2], MOVED + "ReducedBefore, or each gradient counts once for each replica"
    # And no other way of adding up has come beside it.
    reducing = [
        name
        for name, member in inspect.getmembers(keras.optimizers.Optimizer, inspect.isfunction)
        if "all_reduce(" in inspect.getsource(member)
    ]
    assert reducing == [method], MOVED + "ReducedBefore"


def test_the_states_of_optimizers_are_found():
    for kind in (keras.optimizers.AdamW, keras.optimizers.SGD):
        model = small_model()
        optimizer = kind(0.1, **({"momentum": 0.9} if kind is keras.optimizers.SGD else {}))
        optimizer.exclude_from_weight_decay(var_list=[model.trainable_variables[1]])
        optimizer.build(model.trainable_variables)
        kernel, bias = model.trainable_variables
        found = (
            [_internal.sgd_momentum(optimizer, kernel)]
            if kind is keras.optimizers.SGD
            else _internal.adam_moments(optimizer, kernel)
        )
        assert all(state.shape == kernel.shape for state in found), MOVED + "the optimizers' states"
        assert {id(state) for state in found} <= {id(v) for v in optimizer.variables}
        assert _internal.decays(optimizer, kernel), MOVED + "decays"
        assert not _internal.decays(optimizer, bias), MOVED + "decays"


def test_fit_and_evaluate_run_the_trainers_own_steps(monkeypatch):
    ran = []
    real = Trainer.of_iterator

    def noting(self, step):
        ran.append(step.__name__)
        return real(self, step)

    monkeypatch.setattr(Trainer, "of_iterator", noting)
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(6)]
    )
    trainer = Trainer(model)
    optimizer = optim.SGD(0.1)
    optimizer.build(model.trainable_variables)
    trainer.compile(optimizer, jit_compile=False)
    images, labels = np.zeros((2, 4, 4, 1), "float32"), np.eye(6, dtype="float32")[:2]
    data = tf.data.Dataset.from_tensors((images, labels))
    trainer.fit(data, verbose=0)
    trainer.evaluate(
        tf.data.Dataset.from_tensors((images, labels, np.ones(2, "float32"))), verbose=0
    )
    assert ran == ["train_step", "test_step"], MOVED + "StepsOfItsOwn"
    for name in vars(_internal.StepsOfItsOwn):
        if not name.startswith("__"):
            assert hasattr(keras.Model, name), MOVED + f"StepsOfItsOwn: there is no {name} any more"


def test_the_switch_of_deterministic_operations_is_the_public_one():
    was = switches.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        assert _internal.op_determinism(), MOVED + "op_determinism"
        with _internal.without_op_determinism():
            assert not _internal.op_determinism(), MOVED + "without_op_determinism"
        assert _internal.op_determinism(), MOVED + "without_op_determinism"
    finally:
        if not was:
            switches.disable_op_determinism()
    with _internal.without_op_determinism():
        pass
    assert switches.is_op_determinism_enabled() == was


@pytest.mark.parametrize(
    "strategy",
    [tf.distribute.OneDeviceStrategy("CPU:0"), tf.distribute.MirroredStrategy(["CPU:0"])],
)
def test_a_strategys_batches_can_be_made_with_the_switch_off(strategy):
    seen = []

    def batches(**_):
        seen.append(_internal.op_determinism())
        return tf.data.Dataset.range(3)

    shared = distributed(strategy, batches)
    assert type(shared) is _internal.PlainIteration, MOVED + "PlainIteration"
    assert [int(batch) for batch in shared] == [0, 1, 2]
    with pytest.raises(TypeError, match="Dataset is not what this TensorFlow"):
        _internal.PlainIteration.of(tf.data.Dataset.range(3))


def test_slurm_names_hosts_and_tasks():
    assert _internal.slurm_hosts("n[1-2,10],m3") == ["n1", "n2", "n10", "m3"], MOVED + "slurm_hosts"
    assert _internal.slurm_tasks("2(x3),1") == [2, 2, 2, 1], MOVED + "slurm_tasks"


def test_a_data_set_that_calls_python_is_known():
    plain = tf.data.Dataset.range(3).map(lambda number: number + 1)
    python = plain.map(lambda number: tf.numpy_function(lambda n: n, [number], tf.int64))
    inside = tf.data.Dataset.range(2).flat_map(lambda _: python)
    found = [_internal.has_python(dataset) for dataset in (plain, python, inside)]
    assert found == [False, True, True], MOVED + "has_python"


def test_splits_are_cut_as_tfds_cuts_them():
    counts = {"train": 30, "test": 10}
    found = _internal.split_slices("train[:90%]+test[5:]", counts)
    assert found == [("train", slice(0, 27)), ("test", slice(5, 10))], MOVED + "split_slices"
    for unknown in ("validation", "train[:"):
        with pytest.raises((ValueError, NotImplementedError)):
            _internal.split_slices(unknown, counts)


def test_an_unknown_data_set_has_an_error_of_its_own():
    import tensorflow_datasets as tfds

    with pytest.raises(_internal.dataset_not_found()):
        tfds.builder("no_such_data_set_at_all")


def test_tfds_has_the_classes_of_imagenets_validation_images():
    synsets = _internal.imagenet_validation_synsets()
    assert len(synsets) == 50_000, MOVED + "imagenet_validation_synsets"
    assert synsets[0] == "n01751748" and len({*synsets}) == 1000


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_described_folder_is_a_data_set_for_tfds(tmp_path, file_format):
    import tensorflow_datasets as tfds

    path = _internal.record_path(tmp_path, "train", file_format, 1, 3)
    assert path == tmp_path / f"images-train.{file_format}-00001-of-00003", MOVED + "record_path"
    shards = {"train": [{"images": images, "bytes": 100} for images in (4, 2, 3)]}
    _internal.write_dataset_info(tmp_path, ("ant", "bee"), shards, file_format)
    info = tfds.builder_from_directory(tmp_path).info
    assert info.features["label"].names == ["ant", "bee"], MOVED + "write_dataset_info"
    assert info.splits["train"].shard_lengths == [4, 2, 3]
    assert info.file_format.value == file_format
