"""What is frozen stays frozen, however a model is saved, loaded or cloned."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from backend import numpy
from small_models import images, tiny

import keras_cvt
from keras_cvt import StageConfig
from keras_cvt._keras_internal import flatten_layers


def freeze_backbone(backbone):
    backbone.trainable = False


def freeze_two_stages(backbone):
    for layer in backbone.layers:
        if layer.name.startswith(("stage0", "stage1")):
            layer.trainable = False


def freeze_batch_norms(backbone):
    for layer in flatten_layers(backbone):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def flags_of(model):
    """Of all layers but inputs, whose flags Keras does not store."""
    return [
        layer.trainable
        for layer in flatten_layers(model)
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def freeze_parts_of_blocks(backbone):
    backbone.get_layer("stage1_blocks_0").attn.trainable = False
    backbone.get_layer("stage2_blocks_1").mlp.fc1.trainable = False


@pytest.mark.parametrize(
    "freeze", [freeze_backbone, freeze_two_stages, freeze_batch_norms, freeze_parts_of_blocks]
)
@pytest.mark.parametrize("nested", [False, True])
def test_frozen_stays_frozen(freeze, nested, tmp_path):
    backbone = tiny(include_top=False, pooling="token", input_shape=(32, 32, 3))
    freeze(backbone)
    inputs = keras.Input((32, 32, 3)) if nested else backbone.input
    features = backbone(inputs) if nested else backbone.output
    model = keras.Model(inputs, keras.layers.Dense(3, name="new")(features))
    frozen = [w.shape for w in model.trainable_variables]
    assert len(frozen) == 2 if freeze is freeze_backbone else 2 < len(frozen) < 101
    model.save(tmp_path / "model.keras")
    others = [
        keras.saving.load_model(tmp_path / "model.keras"),
        keras.models.clone_model(model),
        type(model).from_config(model.get_config()),
    ]
    for other in others:
        assert [w.shape for w in other.trainable_variables] == frozen
        assert flags_of(other) == flags_of(model)
    loaded = others[0]
    before = [np.array(numpy(w)) for w in loaded.weights]
    learned = {id(w) for w in loaded.trainable_weights}
    loaded.compile(keras.optimizers.SGD(1e3), "mse")
    loaded.fit(images(32, 32), np.ones((2, 3), "float32"), verbose=0)
    for weight, old in zip(loaded.weights, before, strict=True):
        if id(weight) not in learned and "moving" not in weight.path:
            np.testing.assert_array_equal(numpy(weight), old, err_msg=weight.path)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_frozen_stays_frozen_when_quantized(tmp_path):
    model = keras_cvt.CvT([StageConfig(8, 1, 2)], classes=3, input_shape=(32, 32, 3))
    freeze_batch_norms(model)
    model.quantize("int8")
    assert flags_of(model).count(False) == 3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert flags_of(loaded) == flags_of(model)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_under_a_name_scope(tmp_path):
    """Quantized sublayers are known by their place in the layer, not by the names around it."""
    with keras.name_scope("outer"):
        model = keras_cvt.CvT([StageConfig(8, 1, 2)], classes=3, input_shape=(32, 32, 3))
    model.quantize("int8")
    model.save(tmp_path / "model.keras")
    renamed = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(
            {**layer.get_config(), "name": f"my_{layer.name}"}
        ),
    )
    renamed.set_weights(model.get_weights())
    x = images(32, 32)
    for other in (keras.saving.load_model(tmp_path / "model.keras"), renamed):
        np.testing.assert_array_equal(numpy(other(x)), numpy(model(x)))
        modes = [layer.quantization_mode for layer in flatten_layers(other)]
        assert modes == [layer.quantization_mode for layer in flatten_layers(model)]


def test_a_layer_that_is_trained_trains_all_that_is_in_it():
    """On every backend. Keras' own layers on TensorFlow pass over a flag that is there already."""
    model = tiny(input_shape=(32, 32, 3))
    count = len(model.trainable_variables)
    block = model.get_layer("stage1_blocks_0")
    block.attn.conv_proj_q.bn.trainable = False
    block.mlp.trainable = False
    assert block.trainable and len(model.trainable_variables) < count
    block.trainable = True
    assert len(model.trainable_variables) == count
    freeze_parts_of_blocks(model)
    freeze_batch_norms(model)
    for layer in model.layers:
        layer.trainable = True
    assert len(model.trainable_variables) == count


@keras.saving.register_keras_serializable("test_trainable")
class Task(keras.Model):
    """As KerasHub wraps a backbone."""

    def __init__(self, backbone, units=3, **kwargs):
        super().__init__(**kwargs)
        self.backbone, self.units = backbone, units
        self.dense = keras.layers.Dense(units)

    def call(self, x, training=None):
        return self.dense(self.backbone(x, training=training))

    def get_config(self):
        backbone = keras.saving.serialize_keras_object(self.backbone)
        return {**super().get_config(), "backbone": backbone, "units": self.units}

    @classmethod
    def from_config(cls, config):
        backbone = keras.saving.deserialize_keras_object(config.pop("backbone"))
        return cls(backbone, **config)


@pytest.mark.parametrize("freeze", [freeze_backbone, freeze_parts_of_blocks])
def test_frozen_stays_frozen_in_a_model_of_another_class(freeze, tmp_path):
    backbone = tiny(
        include_top=False, pooling="token", input_shape=(32, 32, 3), dtype="mixed_bfloat16"
    )
    freeze(backbone)
    model = Task(backbone)
    model(images(32, 32))
    model.save(tmp_path / "task.keras")
    loaded = keras.saving.load_model(tmp_path / "task.keras")
    assert flags_of(loaded) == flags_of(model)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
