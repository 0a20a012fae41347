"""Tests of training/optim: the learning rate of every step, the optimizers, special weights."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_cvt
from training import configs, optim

NO_EPOCHS = ["epochs=none", "warmup_epochs=0"]


def same(found, table):
    """Within float32's roundings of numbers as large as the peak."""
    np.testing.assert_allclose(found, table, rtol=1e-6, atol=2e-7 * np.max(table))


def rates(overrides, steps_per_epoch, steps):
    schedule = optim.schedule(configs.load("digits", overrides), steps_per_epoch)
    return keras.ops.convert_to_numpy(schedule(np.arange(steps)))


# ---- learning rate


@pytest.mark.parametrize(
    ("batch_size", "given"),
    [
        (2048, ["learning_rate=0.001", "learning_rate_images=1024"]),
        (256, ["learning_rate=0.001", "learning_rate_images=1024"]),
        (2048, ["learning_rate=0.002"]),
    ],
)
def test_official_recipe_epoch_by_epoch(batch_size, given):
    """310 epochs: 0.00025 for each 256 images, 5 epochs of growth from 1e-6, cosine to 1e-5, which
    10 more epochs keep."""
    peak = 0.00025 * batch_size / 256
    table = [1e-6 + epoch * (peak - 1e-6) / 5 for epoch in range(5)]
    table += [
        1e-5 + 0.5 * (peak - 1e-5) * (1 + math.cos(math.pi * epoch / 300))
        for epoch in range(5, 300)
    ]
    table += [1e-5] * 10
    recipe = ["epochs=300", "warmup_epochs=5", "cooldown_epochs=10", "schedule_unit=epoch"]
    steps = 1281167 // batch_size
    found = rates([*recipe, f"batch_size={batch_size}", *given], steps, 310 * steps)
    same(found.reshape(310, steps), np.tile(table, (steps, 1)).T)


def test_digits_step_by_step():
    """The config as it is: 20 epochs of 22 steps, 3 of them growth, and nothing is held."""
    table = [1e-6 + step * (1e-3 - 1e-6) / 66 for step in range(66)]
    table += [
        1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 440)) for step in range(66, 440)
    ]
    table += [1e-5] * 5
    same(rates([], 22, 445), table)


def test_fine_tuning_for_a_number_of_steps():
    sgd = ["optimizer=sgd", "steps=500", *NO_EPOCHS, "learning_rate=0.02", "batch_size=512"]
    table = [1e-5 + 0.5 * (0.02 - 1e-5) * (1 + math.cos(math.pi * n / 500)) for n in range(501)]
    # 37 of 500 are no whole number of epochs: the steps of an epoch make no difference.
    same(rates(sgd, 37, 501), table)


def test_a_fraction_of_an_epoch_of_growth():
    table = [1e-6 + step * (0.1 - 1e-6) / 5 for step in range(5)]
    table += [1e-5 + 0.5 * (0.1 - 1e-5) * (1 + math.cos(math.pi * n / 20)) for n in range(5, 20)]
    same(rates(["epochs=2", "warmup_epochs=0.5", "learning_rate=0.1"], 10, 20), table)


def test_steps_that_float32_cannot_count():
    rate = optim.WarmupCosine(1.0, total_steps=2**26, hold=2)
    step = 2**25 + 1
    assert float(rate(step)) == float(rate(step - 1))
    assert float(rate(tf.constant(step, tf.int64))) == pytest.approx(0.5, abs=1e-6)


def test_schedule_begins_at_its_peak_without_growth_and_refuses_nothing_but_growth():
    assert float(optim.WarmupCosine(0.1, total_steps=8)(0)) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="less than `total_steps`"):
        optim.WarmupCosine(0.1, total_steps=8, warmup_steps=8)


# ---- optimizers


def small_model():
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, bias_initializer="ones")])


def applied(overrides, steps=6):
    """The weights after each step with random gradients, and these gradients: numpy, (steps, ...)."""
    config = configs.load(
        "digits", [*overrides, "learning_rate=0.1", "warmup_epochs=2", "epochs=5"]
    )
    model = small_model()
    optimizer = optim.optimizer(config, model, steps_per_epoch=1)
    rng = np.random.default_rng(3)
    gradients, weights = [], [model.get_weights()]
    for _ in range(steps):
        gradients.append([rng.normal(size=w.shape).astype("float32") for w in weights[0]])
        optimizer.apply([tf.constant(g) for g in gradients[-1]], model.trainable_weights)
        weights.append(model.get_weights())
    # 1e-6 is the rate of the first step of growth: what is wrong in others must show.
    rate = [0.1 * n / 2 + 1e-6 * (1 - n / 2) for n in range(2)]
    rate += [
        1e-5 + 0.5 * (0.1 - 1e-5) * (1 + math.cos(math.pi * min(n / 5, 1))) for n in (2, 3, 4, 5)
    ]
    return rate, gradients, weights


@pytest.mark.parametrize("epsilon", ["1e-8", "0.1"])
def test_adamw_is_torchs(epsilon):
    """torch.optim.AdamW's rule in float64; a large epsilon shows where it is added."""
    rate, gradients, weights = applied(["weight_decay=0.5", f"epsilon={epsilon}"])
    for which, decay in ((0, 0.5), (1, 0.0)):  # the kernel decays, the bias does not
        w = weights[0][which].astype("float64")
        mean = square = np.zeros(w.shape)
        for step, lr in enumerate(rate):
            g = gradients[step][which].astype("float64")
            w = w * (1 - lr * decay)
            mean = 0.9 * mean + 0.1 * g
            square = 0.999 * square + 0.001 * g * g
            t = step + 1
            root = np.sqrt(square) / math.sqrt(1 - 0.999**t) + float(epsilon)
            w = w - lr / (1 - 0.9**t) * mean / root
            np.testing.assert_allclose(weights[t][which], w, atol=2e-6, err_msg=f"step {t}")


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd_is_torchs(momentum):
    """torch.optim.SGD's rule: coupled decay, and the whole momentum at the rate of the step."""
    rate, gradients, weights = applied(
        ["optimizer=sgd", "weight_decay=0.3", f"momentum={momentum}"]
    )
    for which, decay in ((0, 0.3), (1, 0.0)):
        w = weights[0][which].astype("float64")
        buffer = np.zeros(w.shape)
        for step, lr in enumerate(rate):
            buffer = momentum * buffer + gradients[step][which] + decay * w
            w = w - lr * buffer
            np.testing.assert_allclose(weights[step + 1][which], w, atol=2e-6, err_msg=f"{step}")


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimizers_and_schedules_go_through_their_configs(name):
    config = configs.load("digits", [f"optimizer={name}", "weight_decay=0.3", "epsilon=1e-5"])
    optimizer = optim.optimizer(config, small_model(), steps_per_epoch=4)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    kept = again.weight_decay if name == "adamw" else again.decay
    assert kept == 0.3
    rate, rate_again = optimizer._learning_rate, again._learning_rate
    assert isinstance(rate_again, optim.WarmupCosine)
    assert rate_again.get_config() == rate.get_config()


def test_a_scaled_optimizer_is_the_same_one_within_a_loss_scale():
    config = configs.load("digits", ["weight_decay=0.3"])
    optimizer = optim.optimizer(config, small_model(), steps_per_epoch=4, scaled=True)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(optimizer.inner_optimizer, optim.AdamW)
    assert optimizer.built and optimizer.inner_optimizer.built
    # A checkpoint has these names, however many optimizers the process has made.
    again = optim.optimizer(config, small_model(), steps_per_epoch=4, scaled=True)
    assert again.dynamic_scale.path == optimizer.dynamic_scale.path == "loss_scale/dynamic_scale"


# ---- special weights


def cvt(dtype="float32", **last):
    """Two stages; `last` changes the second."""
    keras.utils.set_random_seed(4)
    stages = [
        {"embed_dim": 4, "depth": 1, "num_heads": 1},
        {"embed_dim": 8, "depth": 2, "num_heads": 2, **last},
    ]
    return keras_cvt.CvT(
        stages, input_shape=(32, 32, 1), classes=3, classifier_activation=None, dtype=dtype
    )


@pytest.mark.parametrize(
    ("last", "kept"),
    [
        ({"class_token": True}, {"stage1_cls_token/token"}),
        ({"position_embedding": True}, {"stage1_pos_embed/embedding"}),
        (
            {"class_token": True, "position_embedding": True, "projection": "linear"},
            {"stage1_cls_token/token", "stage1_pos_embed/embedding"},
        ),
    ],
)
def test_norms_biases_token_and_position_do_not_decay_and_all_else_does(last, kept):
    model = cvt(**last)
    expected = {"head/kernel"}
    for stage, depth in ((0, 1), (1, 2)):
        expected.add(f"stage{stage}_patch_embed/proj/kernel")
        for block in (f"stage{stage}_blocks_{i}" for i in range(depth)):
            if stage == 0 or "projection" not in last:
                expected |= {f"{block}/attn/conv_proj_{x}/conv/kernel" for x in "qkv"}
            expected |= {f"{block}/attn/{x}/kernel" for x in ("proj_q", "proj_k", "proj_v", "proj")}
            expected |= {f"{block}/mlp/{x}/kernel" for x in ("fc1", "fc2")}
    excluded = {weight.path for weight in optim.without_decay(model)}
    paths = {weight.path for weight in model.trainable_weights}
    assert excluded == paths - expected
    assert kept <= excluded

    # And the optimizer obeys: without gradients, decay alone is left.
    for weight in model.trainable_weights:  # biases begin where decay would not show
        weight.assign(np.ones(weight.shape))
    config = configs.load("digits", ["weight_decay=0.5", "learning_rate=0.1", "warmup_epochs=0"])
    optimizer = optim.optimizer(config, model, steps_per_epoch=10)
    optimizer.apply([tf.zeros(w.shape) for w in model.trainable_weights])
    decayed = set()
    for weight in model.trainable_weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.min() < 1:
            np.testing.assert_allclose(values, 1 - 0.5 * 0.1, rtol=1e-6)
            decayed.add(weight.path)
        else:
            np.testing.assert_array_equal(values, 1)
    assert decayed == expected


WITHOUT_EFFECT = [
    {"class_token": True},
    {"class_token": False},
    {"class_token": False, "projection": "linear", "position_embedding": True},
    {"class_token": True, "qkv_bias": False, "stride_kv": 1},
]


@pytest.fixture(scope="module")
def frozen():
    """For each of WITHOUT_EFFECT: the frozen weights, the largest gradient of each weight before, and
    how much other values of the frozen ones change the logits."""
    return [_frozen(last) for last in WITHOUT_EFFECT]


def _frozen(last):
    # float64: what is zero but for rounding is 1e-16, and what is just small is not.
    model = cvt(dtype="float64", **last)
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:  # a fresh model has zeros and ones, which hide much
        weight.assign(keras.ops.convert_to_numpy(weight) + rng.normal(size=weight.shape) * 0.3)
    before = list(model.trainable_weights)
    order = [weight.path for weight in model.weights]
    images = rng.normal(size=(4, 32, 32, 1))
    direction = rng.normal(size=(4, 3))
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(model(images, training=True) * direction)
    gradients = {
        weight.path: float(np.abs(gradient).max())
        for weight, gradient in zip(before, tape.gradient(value, before), strict=True)
    }
    before_training = {w.path: keras.ops.convert_to_numpy(w) for w in model.non_trainable_weights}
    optim.freeze_without_effect(model)
    assert [weight.path for weight in model.weights] == order  # as `get_weights` has them
    taken = [weight for weight in before if not weight.trainable]
    # First without training, which moves the statistics.
    logits = [model(images, training=training).numpy() for training in (False, True)]
    for weight in model.non_trainable_weights:
        if "moving" in weight.path:
            weight.assign(before_training[weight.path])
    for weight in taken:
        weight.assign(keras.ops.convert_to_numpy(weight) + rng.normal(size=weight.shape))
    others = [model(images, training=training).numpy() for training in (False, True)]
    change = max(np.abs(a - b).max() for a, b in zip(logits, others, strict=True))
    return {weight.path for weight in taken}, gradients, change


@pytest.mark.parametrize("case", range(len(WITHOUT_EFFECT)), ids=[str(c) for c in WITHOUT_EFFECT])
def test_what_is_frozen_has_no_effect_and_no_gradient(frozen, case):
    taken, gradients, change = frozen[case]
    last = WITHOUT_EFFECT[case]
    expected = {"stage0_blocks_0/attn/proj_k/bias", "stage0_blocks_0/attn/conv_proj_k/bn/beta"}
    for block in ("stage1_blocks_0", "stage1_blocks_1"):
        if last.get("qkv_bias", True):
            expected.add(f"{block}/attn/proj_k/bias")
        if not last["class_token"] and "projection" not in last:
            expected.add(f"{block}/attn/conv_proj_k/bn/beta")
    assert taken == expected
    assert change < 1e-10
    assert max(gradients[path] for path in taken) < 1e-12


def test_all_other_weights_have_a_gradient(frozen):
    """In some model each: the last block of one with a class token does not use its other queries."""
    unused = "stage1_blocks_1/attn/conv_proj_q/"
    for (taken, gradients, _), last in zip(frozen, WITHOUT_EFFECT, strict=True):
        small = {path for path, size in gradients.items() if size < 1e-8} - taken
        # Exact zeros, not rounding errors: of zeros, Adam makes no steps.
        assert {gradients[path] for path in small} <= {0.0}
        assert all(path.startswith(unused) for path in small if last["class_token"]), small
        assert not small or last["class_token"], small
