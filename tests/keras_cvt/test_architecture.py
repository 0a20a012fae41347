"""What a CvT may be asked to be, and what is refused before it is built (architecture, models)."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import reference_models
from small_models import TINY, tiny

import keras_cvt
from keras_cvt import StageConfig


class _NoWeights:
    """Fails the test when a weight is made."""

    def __enter__(self):
        self.original = keras.layers.Layer.add_weight

        def add_weight(layer, *args, **kwargs):
            raise AssertionError(f"{layer.name} made a weight before the arguments were checked")

        keras.layers.Layer.add_weight = add_weight

    def __exit__(self, *exception):
        keras.layers.Layer.add_weight = self.original


BAD_STAGES = [
    ({"num_heads": 3}, "Stage 0: num_heads=3 does not divide embed_dim=8"),
    ({"depth": 0}, "depth.*at least 1"),
    ({"projection": "lineal"}, "Stage 0: .*projection"),
    ({"stride_kv": [1, 2]}, "stride_kv.*one for each of the 1 blocks.*2 values"),
    ({"stride_q": 2}, "Stage 0: .*keep the size"),
    ({"strid_kv": 2}, "strid_kv.*Did you mean 'stride_kv'"),
    ({"patch_padding": -1}, "patch_padding.*at least 0"),
    ({"position_embedding": True}, "must be known"),
    ({"drop_path_rate": 1.5}, "drop_path_rate.*less than 1"),
    ({"drop_path_rate": -1}, "drop_path_rate.*at least 0"),
    ({"drop_rate": "a"}, "drop_rate"),
    ({"mlp_ratio": "4"}, "mlp_ratio.*number above 0.*'4'"),
    ({"mlp_ratio": 0}, "mlp_ratio.*number above 0"),
    ({"stride_kv": "2"}, "stride_kv.*integer"),
    ({"class_token": "no"}, "class_token.*True or False.*'no'"),
    ({"position_embedding": "yes"}, "position_embedding.*height, width.*'yes'"),
]


@pytest.mark.parametrize(("change", "message"), BAD_STAGES)
def test_wrong_stages(change, message):
    stage = {"embed_dim": 8, "depth": 1, "num_heads": 2, **change}
    with _NoWeights(), pytest.raises(ValueError, match=message):
        keras_cvt.CvT([stage], include_top=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include_top": False, "pooling": "tokens"}, "pooling.*Did you mean 'token'"),
        ({"pooling": "avg"}, "include_top=False"),
        ({"classes": 0}, "classes.*at least 1"),
        ({"classes": 10.0}, "classes.*integer"),
        ({"classifier_activation": "sofmax"}, "sofmax"),
        ({"activation": "quick_glu"}, "quick_glu"),
        ({"input_shape": (2, 64, 3)}, "2x64 are too small.*at least 3 pixels"),
        ({"input_shape": (3, 64, 64)}, "looks like channels first"),
        ({"input_shape": (64, 64)}, "height, width, channels"),
        ({"input_shape": (64, 64, None)}, "number of channels"),
        ({"input_shape": (64, 64, 0)}, "height, width, channels"),
        ({"weights": "imagenet"}, "weights.*None.*'imagenet'"),
        ({"input_shape": 64}, "height, width, channels"),
        ({"weights": True}, "None, a name or a path"),
        ({"input_tensor": keras.Input((64, 64, 3), dtype="uint8"), "input_shape": None}, "Cast it"),
        ({"input_tensor": np.zeros((1, 64, 64, 3))}, "Keras tensor.*ndarray"),
        ({"input_tensor": keras.Input((64, 3)), "input_shape": None}, "height, width, channels"),
        ({"input_tensor": keras.Input((64, 64, 3)), "input_shape": (32, 32, 3)}, "Leave it out"),
    ],
)
def test_wrong_arguments(options, message):
    with _NoWeights(), pytest.raises(ValueError, match=message):
        tiny(**options)


def test_more_wrong_arguments():
    with _NoWeights():
        with pytest.raises(ValueError, match="stages. is empty"):
            keras_cvt.CvT([])
        with pytest.raises(ValueError, match="Stage 0 must be a StageConfig"):
            keras_cvt.CvT([8])
        with pytest.raises(ValueError, match="must be a list of stages"):
            keras_cvt.CvT(TINY[0])
        with pytest.raises(ValueError, match="Stage 0 has no num_heads"):
            keras_cvt.CvT([{"embed_dim": 8, "depth": 1}])
        with pytest.raises(ValueError, match="3 channels, the model for 4"):
            keras_cvt.CvT13(input_shape=(224, 224, 4))  # before anything is downloaded
        with pytest.raises(ValueError, match="needs a class token"):
            keras_cvt.CvT(TINY[:2], include_top=False, pooling="token")
        with pytest.raises(ValueError, match="Did you mean 'imagenet-384'"):
            keras_cvt.CvT13(weights="imagenet_384")
        with pytest.raises(TypeError):
            keras_cvt.CvT13(weights=None, drop_rate=0.1)  # a misspelt argument is not swallowed


def test_numpy_numbers_are_numbers():
    model = tiny(classes=np.int64(5))
    assert model.output_shape == (None, 5)
    stage = StageConfig(np.int32(8), 2, 1, stride_kv=np.array([1, 2]), mlp_ratio=np.array([2, 4]))
    assert stage.stride_kv == (1, 2) and stage.mlp_ratio == (2, 4)


def test_specs():
    spec = json.loads((reference_models.FOLDER / "tiny-mixed" / "spec.json").read_text())
    stages = keras_cvt.stages_from_spec(spec)
    assert [s.mlp_ratio for s in stages] == [2, 4, 2]
    assert [s.class_token for s in stages] == [False, False, True]
    assert keras_cvt.stages_from_spec({k.upper(): v for k, v in spec.items()}) == stages
    assert keras_cvt.stages_from_spec({"MODEL": {"NAME": "cls_cvt", "SPEC": spec}}) == stages
    with pytest.raises(ValueError, match="'mlp_rato'. Did you mean 'mlp_ratio'"):
        keras_cvt.stages_from_spec({**spec, "mlp_rato": [4, 4, 4]})
    with pytest.raises(ValueError, match="'mlp_ratio' must be a list"):
        keras_cvt.stages_from_spec({**spec, "mlp_ratio": 4.0})
    with pytest.raises(ValueError, match="nothing of depth"):
        keras_cvt.stages_from_spec({k: v for k, v in spec.items() if k != "depth"})
    with pytest.raises(ValueError, match="differ in length.*mlp_ratio: 2"):
        keras_cvt.stages_from_spec({**spec, "mlp_ratio": [4, 4]})
