"""Tests of training.engine.step: one step, on one device. test_distribute.py has several devices."""

from __future__ import annotations

import math
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from backend import needs_xla

import keras_cvt
from training import configs, distribute, optim
from training.engine.state import Progress, State
from training.engine.step import Trainer

CLASSES = 6
SGD = ["optimizer=sgd", "learning_rate=0.1", "warmup_epochs=0", "weight_decay=0.01"]


def cvt(dtype="float32", projection="dw_bn", drop_path_rate=0.0):
    keras.utils.set_random_seed(1)
    stage = {
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "patch_size": 4,
        "patch_stride": 4,
        "patch_padding": 0,
        "class_token": True,
        "projection": projection,
        "drop_path_rate": drop_path_rate,
    }
    return keras_cvt.CvT(
        [stage],
        input_shape=(16, 16, 1),
        classes=CLASSES,
        classifier_activation=None,
        kernel_initializer="glorot_uniform",
        dtype=dtype,
    )


def trainer_of(model, overrides=SGD, scaled=False, **options):
    trainer = Trainer(model, **options)
    config = configs.load("digits", overrides)
    optimizer = optim.optimizer(config, model, steps_per_epoch=10, scaled=scaled)
    trainer.compile(optimizer, jit_compile=False)
    return trainer


def batch(number=0, rows=8):
    rng = np.random.default_rng(number)
    images = rng.normal(size=(rows, 16, 16, 1)).astype("float32")
    labels = rng.dirichlet(np.ones(CLASSES), size=rows).astype("float32")  # mixed ones
    return tf.constant(images), tf.constant(labels)


def arrays(variables):
    return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]


def assert_same(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def cross_entropy(labels, logits):
    logits = np.asarray(logits, "float64")
    largest = logits.max(-1, keepdims=True)
    logs = logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))
    return -np.where(labels > 0, labels * logs, 0).sum(-1)


def hits(right, logits, k):
    best = np.argsort(-np.asarray(logits), axis=-1)[:, :k]
    return np.take_along_axis(right, best, axis=-1).max(-1) > 0


# ---- training


def test_a_step_is_what_its_formulas_say():
    """Gradient of the mean loss, SGD, and means over all images until now."""
    trainer, by_hand = trainer_of(cvt()), cvt()
    assert_same(by_hand.get_weights(), trainer.cvt.get_weights(), atol=0)
    optim_schedule = optim.schedule(configs.load("digits", SGD), 10)
    excluded = {weight.path for weight in optim.without_decay(by_hand)}
    momenta = [np.zeros(w.shape) for w in by_hand.trainable_weights]
    seen = []
    for step in range(3):
        images, labels = batch(step)
        logs = trainer.train_step((images, labels))
        with tf.GradientTape() as tape:
            logits = by_hand(images, training=True)
            losses = -tf.reduce_sum(labels * tf.nn.log_softmax(logits), axis=-1)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, by_hand.trainable_weights)
        norm = math.sqrt(sum(float(tf.reduce_sum(g * g)) for g in gradients))
        for i, (weight, gradient) in enumerate(
            zip(by_hand.trainable_weights, gradients, strict=True)
        ):
            decay = 0.0 if weight.path in excluded else 0.01
            value = keras.ops.convert_to_numpy(weight)
            momenta[i] = 0.9 * momenta[i] + gradient.numpy() + decay * value
            weight.assign(value - float(optim_schedule(step)) * momenta[i])
        best = np.eye(CLASSES)[labels.numpy().argmax(-1)]
        seen += zip(losses.numpy(), hits(best, logits, 1), hits(best, logits, 5), strict=True)
        loss_mean, top1, top5 = np.mean(seen, axis=0)
        assert float(logs["step_loss"]) == pytest.approx(float(loss), rel=1e-5)
        assert float(logs["gradient_norm"]) == pytest.approx(norm, rel=1e-4)
        assert float(logs["loss"]) == pytest.approx(loss_mean, rel=1e-5)
        assert float(logs["top1"]) == pytest.approx(top1)
        assert float(logs["top5"]) == pytest.approx(top5)
    assert 0 < top5 < 1
    assert_same(trainer.cvt.get_weights(), by_hand.get_weights(), atol=2e-6)


def test_a_batch_in_parts_makes_the_step_of_the_whole():
    """Without BatchNormalization, whose statistics are those of a part."""
    results = []
    for accumulation in (1, 4):
        trainer = trainer_of(cvt(projection="linear"), accumulation=accumulation)
        logs = [trainer.train_step(batch(step)) for step in range(2)]
        results.append((trainer.cvt.get_weights(), [list(log.values()) for log in logs]))
    (whole, whole_logs), (parts, parts_logs) = results
    assert_same(parts, whole, atol=1e-6)
    np.testing.assert_allclose(parts_logs, whole_logs, rtol=1e-5)


def test_a_batch_that_has_no_equal_parts_is_refused():
    trainer = trainer_of(cvt(projection="linear"), accumulation=3)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        trainer.train_step(batch(rows=8))


def test_clipping_is_torchs_clip_grad_norm():
    plain = [*SGD, "momentum=0", "weight_decay=0"]  # a step is the gradient times 0.1
    start = cvt().get_weights()
    steps, norms = {}, {}
    for clip_norm in (None, 1e6, 0.01):
        trainer = trainer_of(cvt(), plain, clip_norm=clip_norm)
        norms[clip_norm] = float(trainer.train_step(batch())["gradient_norm"])
        names = [w.path for w in trainer.cvt.weights]
        steps[clip_norm] = {
            name: (a - b) / 0.1
            for name, a, b in zip(names, start, trainer.cvt.get_weights(), strict=True)
            if "moving" not in name
        }
    gradient = np.concatenate([g.ravel() for g in steps[None].values()])
    norm = np.linalg.norm(gradient)
    assert norm > 0.1
    # The norm is told as it was before clipping.
    assert list(norms.values()) == pytest.approx([norm] * 3, rel=1e-4)
    for name, whole in steps[None].items():
        np.testing.assert_array_equal(steps[1e6][name], whole)
        clipped = whole * 0.01 / (norm + 1e-6)
        np.testing.assert_allclose(steps[0.01][name], clipped, atol=2e-6, err_msg=name)


def test_averages_are_those_of_weights_and_statistics():
    trainer = trainer_of(cvt(), ema=0.9)
    expected = trainer.cvt.get_weights()
    assert_same(arrays(trainer.averages), expected, atol=0)
    for step in range(3):
        trainer.train_step(batch(step))
        now = trainer.cvt.get_weights()
        expected = [0.9 * a + 0.1 * w for a, w in zip(expected, now, strict=True)]
        assert_same(arrays(trainer.averages), expected, atol=1e-6)
    own, averages = trainer.cvt.get_weights(), arrays(trainer.averages)
    assert max(np.abs(a - b).max() for a, b in zip(own, averages, strict=True)) > 1e-3

    with trainer.averaged():
        assert_same(trainer.cvt.get_weights(), averages, atol=0)
    assert_same(trainer.cvt.get_weights(), own, atol=0)
    with pytest.raises(KeyError), trainer.averaged():
        raise KeyError
    assert_same(trainer.cvt.get_weights(), own, atol=0)
    assert_same(arrays(trainer.averages), averages, atol=0)


def test_without_averages_the_weights_stay():
    trainer = trainer_of(cvt(projection="linear"))
    own = trainer.cvt.get_weights()
    with trainer.averaged():
        assert_same(trainer.cvt.get_weights(), own, atol=0)
    assert trainer.averages == []


def test_float16_leaves_out_a_step_whose_gradient_is_too_large_for_it():
    model = cvt("mixed_float16")
    trainer = trainer_of(model, ["weight_decay=0.1"], scaled=True, clip_norm=1.0)
    optimizer = trainer.optimizer
    optimizer.dynamic_scale.assign(2.0**40)

    def state():
        return arrays([*model.trainable_weights, *optimizer.inner_optimizer.variables])

    before = state()
    logs = trainer.train_step(batch())
    assert not np.isfinite(logs["gradient_norm"])
    assert np.isfinite(logs["step_loss"])
    assert_same(state(), before, atol=0)
    assert float(optimizer.dynamic_scale) == 2.0**39

    optimizer.dynamic_scale.assign(2.0**10)
    logs = trainer.train_step(batch())
    assert int(optimizer.iterations) == 1 and float(optimizer.dynamic_scale) == 2.0**10
    after = state()
    assert all(np.isfinite(values).all() for values in after)
    assert sum(not np.array_equal(a, b) for a, b in zip(after, before, strict=True)) > 40
    # And the scale is out of the gradient again.
    in_float32 = trainer_of(cvt()).train_step(batch())["gradient_norm"]
    assert float(logs["gradient_norm"]) == pytest.approx(float(in_float32), rel=0.02)


# ---- evaluation


def test_evaluation_counts_what_has_weight_and_takes_any_of_several_right_classes():
    """The "model" gives its input as logits, so that they can be anything."""
    model = keras.Sequential([keras.Input((1, 1, 7)), keras.layers.Flatten()])
    trainer = Trainer(model)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(12, 7)).astype("float32") * 3
    right = np.eye(7, dtype="float32")[rng.integers(0, 7, 12)]
    right[2] = [0, 1, 1, 0, 0, 0, 1]
    right[7] = [1, 0, 0, 1, 0, 0, 0]
    weights = np.ones(12, "float32")
    weights[[4, 10, 11]] = 0
    right[4] = 0  # as what fills up a batch has it
    logits[10] = np.nan
    logits[11, 3] = np.inf
    for rows in (slice(0, 6), slice(6, 12)):
        data = logits[rows, None, None], right[rows], weights[rows]
        logs = trainer.test_step(tuple(map(tf.constant, data)))
    kept = weights > 0
    losses = cross_entropy(right[kept] / right[kept].sum(-1, keepdims=True), logits[kept])
    assert float(logs["loss"]) == pytest.approx(losses.mean(), rel=1e-5)
    for name, k in (("top1", 1), ("top5", 5)):
        assert float(logs[name]) == pytest.approx(hits(right[kept], logits[kept], k).mean())
    assert float(logs["top1"]) < float(logs["top5"]) < 1
    assert float(trainer.means["top1"].count) == 9


def test_a_batch_of_nothing_but_filling_changes_nothing():
    trainer = Trainer(keras.Sequential([keras.Input((1, 1, 3)), keras.layers.Flatten()]))
    ones = tf.ones((2, 1, 1, 3)), tf.constant(np.eye(3, dtype="float32")[:2]), tf.ones(2)
    before = trainer.test_step(ones)
    after = trainer.test_step((ones[0] * np.nan, ones[1] * 0, ones[2] * 0))
    assert {k: float(v) for k, v in after.items()} == {k: float(v) for k, v in before.items()}
    assert float(before["loss"]) == pytest.approx(math.log(3))
    assert float(before["top5"]) == 1  # of three classes, the right one is always among five


def test_evaluation_moves_no_statistics():
    trainer = trainer_of(cvt(drop_path_rate=0.5))
    before = trainer.cvt.get_weights()
    images, labels = batch()
    data = images, tf.round(labels + 0.4), tf.ones(8)
    first, second = (float(trainer.test_step(data)["loss"]) for _ in range(2))
    assert first == pytest.approx(second, rel=1e-6)
    assert_same(trainer.cvt.get_weights(), before, atol=0)


# ---- what a checkpoint has


def test_the_state_has_every_variable_under_its_own_name():
    model = cvt("mixed_float16", drop_path_rate=0.5)
    trainer = trainer_of(model, ["weight_decay=0.1"], scaled=True, ema=0.9)
    trainer.train_step(batch())
    state = State(trainer, Progress())
    seeds = distribute.seed_generators(model)
    assert len(seeds) == 1
    known = [*model.weights, *trainer.averages, *trainer.optimizer.variables]
    checkpoint = state.checkpoint()
    assert len(checkpoint.arrays) == len(known) + len(seeds) + 6  # total and count of three means
    trainer.train_step(batch(1))
    state.restore_means(state.restore(checkpoint))
    for name, values in state.checkpoint().arrays.items():
        np.testing.assert_array_equal(values, checkpoint.arrays[name], err_msg=name)


# ---- XLA


def compiled(step, data):
    """A step as TPUs need it: XLA compiles the whole of it. Returns the function and XLA's program.

    TensorFlow refuses what XLA can't do itself; nothing is left to the host in silence.
    """
    needs_xla()
    function = tf.function(step, jit_compile=True)
    return function, function.experimental_get_compiler_ir(data)(stage="hlo")


def assert_needs_no_host(hlo):
    operations = set(
        re.findall(r"^\s*(?:ROOT )?\S+ = .*?[\])}] ([a-z][\w-]*)\(", hlo, re.MULTILINE)
    )
    assert {"parameter", "dot", "add"} <= operations  # they are found at all
    host = {"infeed", "outfeed", "send", "recv", "custom-call", "domain", "async-start"}
    assert not operations & host
    assert not re.search(r"\[[^\]]*<=", hlo), "a size that is known only when it runs"


@pytest.mark.slow
def test_both_steps_compile_whole_with_xla_and_run():
    model = cvt("mixed_bfloat16", drop_path_rate=0.5)
    optim.freeze_without_effect(model)
    trainer = trainer_of(model, ["weight_decay=0.1", "warmup_epochs=0"], clip_norm=0.1, ema=0.9)
    images, labels = batch()
    before = arrays(trainer.averages)
    for step, data in (
        (trainer.train_step, (images, labels)),
        (trainer.test_step, (images, tf.round(labels + 0.4), tf.ones(8))),
    ):
        function, hlo = compiled(step, data)
        assert_needs_no_host(hlo)
        assert "bf16[8,4,4,16]" in hlo  # the map of 4 x 4 tokens
        logs = function(data)
        assert all(np.isfinite(value) for value in logs.values())
        assert 0.5 < float(logs["loss"]) < 5
    changed = [
        not np.array_equal(a, b) for a, b in zip(arrays(trainer.averages), before, strict=True)
    ]
    assert sum(changed) > 40


@pytest.mark.parametrize(
    "on_host",
    [
        lambda x: tf.numpy_function(np.sin, [x], tf.float32),
        lambda x: tf.py_function(tf.sin, [x], tf.float32),
        lambda x: (tf.print(x), x)[1],
        lambda x: tf.strings.to_number(tf.strings.as_string(x)),
    ],
    ids=["numpy_function", "py_function", "print", "strings"],
)
def test_what_would_need_the_host_is_refused(on_host):
    def step(x):
        return on_host(x) + 1

    with pytest.raises(ValueError, match="Detected unsupported operations"):
        compiled(step, tf.ones((3,)))


def test_parts_and_a_loss_scale_become_an_xla_program_too():
    """What is seldom used on a TPU, as a program that is not run: compiling it takes half a minute."""
    model = cvt("mixed_float16", projection="linear")
    trainer = trainer_of(model, ["weight_decay=0.1"], scaled=True, clip_norm=0.1, accumulation=2)
    assert_needs_no_host(compiled(trainer.train_step, batch())[1])
