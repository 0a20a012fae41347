"""What holds for any stages: random configurations, and the models that they make."""

import dataclasses
import json

import numpy as np
from backend import numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import build, images

import keras_cvt
from keras_cvt import StageConfig, complexity
from keras_cvt.architecture import as_stages, stages_from_json, stages_to_json
from keras_cvt.structure import stage_configs
from keras_cvt.weights import named_variables, names

SIZE = (40, 56)


@st.composite
def stage(draw, index=0):
    """A stage that halves the map, or quarters it if it is the first, in any other way."""
    heads, depth = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 1, 2]))
    stride = 2 if index else draw(st.sampled_from([2, 4]))
    per_block = lambda values: st.one_of(  # noqa: E731
        st.sampled_from(values), st.lists(st.sampled_from(values), min_size=depth, max_size=depth)
    )
    kernel = draw(st.sampled_from([1, 3, 5]))
    return StageConfig(
        embed_dim=heads * draw(st.sampled_from([2, 4, 5])),
        depth=depth,
        num_heads=heads,
        patch_size=draw(st.sampled_from([stride, 3, 7])),
        patch_stride=stride,
        patch_padding=draw(st.sampled_from([1, 2, 3])),
        class_token=draw(st.booleans()),
        position_embedding=draw(st.one_of(st.booleans(), st.just((3, 4)))),
        projection=draw(st.sampled_from(["dw_bn", "dw_bn", "linear"])),
        kernel_qkv=kernel,
        padding_q=(kernel - 1) // 2,
        stride_kv=draw(per_block([1, 2, 3])),
        padding_kv=draw(st.sampled_from([1, 2])),
        mlp_ratio=draw(per_block([0.5, 1, 2.5, 4])),
        qkv_bias=draw(st.booleans()),
        drop_rate=draw(st.sampled_from([0.0, 0.1])),
        attention_drop_rate=draw(st.sampled_from([0.0, 0.1])),
        drop_path_rate=draw(st.sampled_from([0.0, 0.3])),
    )


stages = st.integers(1, 3).flatmap(lambda count: st.tuples(*(stage(i) for i in range(count))))


@given(stages)
@settings(max_examples=100)
def test_stages_go_through_json(configs):
    texts = json.dumps([dataclasses.asdict(config) for config in configs])
    assert as_stages(json.loads(texts)) == as_stages(configs)
    assert stages_from_json(json.loads(json.dumps(stages_to_json(configs)))) == as_stages(configs)


@given(stages)
@settings(max_examples=100)
def test_names_are_a_bijection(configs):
    """Keras' path <-> the official name <-> Hugging Face's; and back from each."""
    paths = [path for path in paths_of(configs)]
    official = [names.official(path) for path in paths]
    theirs = [names.huggingface(name) for name in official]
    assert len({*paths}) == len({*official}) == len({*theirs}) == len(paths)
    assert [names._from_huggingface(name) for name in theirs] == official


def paths_of(configs):
    """Of all variables of the classifier with these stages, without making it."""
    for i, config in enumerate(configs):
        layers = {f"stage{i}_patch_embed/proj": "kernel bias", f"stage{i}_patch_embed/norm": NORM}
        if config.class_token:
            layers[f"stage{i}_cls_token"] = "token"
        if config.position_embedding:
            layers[f"stage{i}_pos_embed"] = "embedding"
        for j in range(config.depth):
            block = f"stage{i}_blocks_{j}"
            layers |= {f"{block}/norm{n}": NORM for n in (1, 2)}
            layers |= {f"{block}/mlp/fc{n}": "kernel bias" for n in (1, 2)}
            layers[f"{block}/attn/proj"] = "kernel bias"
            for q in "qkv":
                layers[f"{block}/attn/proj_{q}"] = "kernel bias" if config.qkv_bias else "kernel"
                if config.projection == "dw_bn":
                    layers[f"{block}/attn/conv_proj_{q}/conv"] = "kernel"
                    layers[f"{block}/attn/conv_proj_{q}/bn"] = f"{NORM} moving_mean moving_variance"
        yield from (f"{layer}/{name}" for layer, text in layers.items() for name in text.split())
    yield from ("norm/gamma", "norm/beta", "head/kernel", "head/bias")


NORM = "gamma beta"


@given(stages)
@settings(max_examples=6)
def test_models_of_random_stages(configs):
    """Counted as built, named as said, read back as asked, and deployed within 1e-4."""
    model = build(configs, input_shape=(*SIZE, 3), classifier_activation=None)
    result = complexity(configs, (*SIZE, 3), classes=5)
    assert result.parameters == sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    assert result.parameters + result.statistics == model.count_params()
    assert complexity(model) == result
    assert sorted(w.path for w in model.weights) == sorted(paths_of(configs))
    assert len(named_variables(model)) == len(model.weights)
    found = stage_configs(model)
    assert complexity(found, (*SIZE, 3), classes=5) == result
    assert [(s.embed_dim, s.depth, s.num_heads, s.class_token) for s in found] == [
        (s.embed_dim, s.depth, s.num_heads, s.class_token) for s in configs
    ]
    x = images(*SIZE)
    np.testing.assert_allclose(
        numpy(keras_cvt.deploy(model)(x)), numpy(model(x)), rtol=1e-4, atol=1e-4
    )
