"""The network whose weights candidates share (training/search/network.py)."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from backend import needs_xla
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_cvt
from keras_cvt import StageConfig
from training.search.network import SharedNetwork, copy_weights
from training.search.space import Space

SIZE = 24


@st.composite
def spaces(draw) -> Space:
    """Random spaces around random stages."""
    count = draw(st.integers(1, 3))
    stages = [
        StageConfig(
            embed_dim=draw(st.sampled_from([8, 12])),
            depth=draw(st.integers(1, 2)),
            num_heads=draw(st.sampled_from([1, 2])),
            patch_stride=2 if i == 0 else 1,
            class_token=i == count - 1 and draw(st.booleans()),
            position_embedding=draw(st.booleans()),
            projection=draw(st.sampled_from(["dw_bn", "dw_bn", "linear"])),
            kernel_qkv=3,
        )
        for i in range(count)
    ]
    strides = draw(st.sampled_from([[1, 2], [1, 2, 3], [2, 4], [1]]))
    ratios = draw(st.sampled_from([[2, 4], [1, 2.5, 3], [0.5, 4]]))
    values = {"all": {"stride_kv": strides, "mlp_ratio": ratios}}
    if draw(st.booleans()):
        values["stage0"] = {"mlp_ratio": [1.5, 3]}
    return Space.around(stages, values)


def randomized(model: keras.Model, seed: int) -> keras.Model:
    """A model whose weights are all different, its statistics too."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        value = random.normal(0, 0.3, weight.shape)
        weight.assign(abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def built(stages) -> keras.Model:
    return keras_cvt.CvT(
        stages, classes=5, input_shape=(SIZE, SIZE + 6, 3), classifier_activation=None
    )


@given(spaces(), st.integers(0, 2**31 - 1))
@settings(max_examples=15)
def test_a_candidate_taken_out_computes_what_the_shared_network_computes_for_it(space, seed):
    keras.backend.clear_session()
    random = np.random.default_rng(seed)
    shared = randomized(built(space.largest_stages), seed)
    network = SharedNetwork(shared, space)
    images = random.normal(0, 1, (2, SIZE, SIZE + 6, 3)).astype("float32")
    for candidate in (space.largest, space.smallest, space.random(random)):
        alone = built(space.stages(candidate))
        copy_weights(shared, alone)
        expected = alone(images, training=False)
        found = network(images, tf.constant(candidate), training=False)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        network(images, tf.constant(space.largest), training=False),
        shared(images, training=False),
        rtol=1e-5,
        atol=1e-5,
    )


def test_xla_compiles_one_graph_for_all_candidates():
    needs_xla()
    stages = [StageConfig(8, 2, 1, patch_stride=2, class_token=True)]
    space = Space.around(stages, {"all": {"stride_kv": [1, 2], "mlp_ratio": [2, 4]}})
    shared = randomized(built(space.largest_stages), 0)
    network = SharedNetwork(shared, space)
    images = np.random.default_rng(0).normal(size=(2, SIZE, SIZE + 6, 3)).astype("float32")
    compiled = tf.function(lambda candidate: network(images, candidate, False), jit_compile=True)
    for candidate in (space.largest, space.smallest, (1, 0, 0, 1)):
        np.testing.assert_allclose(
            compiled(tf.constant(candidate)),
            network(images, tf.constant(candidate), training=False),
            rtol=1e-4,
            atol=1e-5,
        )
    assert compiled.experimental_get_tracing_count() == 1
