"""KerasHub's detector and segmenter on a CvT backbone."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np
import pytest
from backend import BACKEND, numpy
from small_models import TINY, images

from keras_cvt import hub

CLASSES = 3


def segmenter(image_shape=(None, None, 3), **options):
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=hub.CvTBackbone(TINY, **options),
        spatial_pyramid_pooling_key="P4",
        low_level_feature_key="P2",
        upsampling_size=4,
        dilation_rates=[1, 2],
        image_shape=image_shape,
        dtype=options.get("dtype"),
    )
    return keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=CLASSES)


def test_deeplab_takes_rectangles_of_several_sizes_and_is_saved(tmp_path):
    model = segmenter()
    for height, width in ((32, 48), (64, 32)):
        assert model(images(height, width)).shape == (2, height, width, CLASSES)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images(32, 48)
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


def test_deeplab_with_a_frozen_backbone_in_mixed_precision():
    model = segmenter(dtype="mixed_bfloat16")
    encoder = model.backbone.image_encoder
    encoder.trainable = False
    before = [numpy(w).copy() for w in encoder.weights]
    model.compile(
        optimizer=keras.optimizers.Adam(1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[],
        jit_compile=False if BACKEND == "tensorflow" else "auto",
    )
    x, y = images(32, 48), np.ones((2, 32, 48), "int32")
    first = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=3, verbose=0)
    assert np.max(model.evaluate(x, y, verbose=0)) < np.max(first)
    for weight, kept in zip(encoder.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), kept)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="exports are TensorFlow's")
def test_the_segmenter_is_exported(tmp_path):
    import onnxruntime
    import tensorflow as tf

    # KerasHub's upsampling can't be traced for images of any size.
    model = segmenter(image_shape=(32, 48, 3))
    x = images(32, 48)
    expected = numpy(model(x))
    plain = keras.Model(model.input, model.output)
    plain.export(tmp_path / "saved", format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_allclose(loaded.serve(x), expected, atol=1e-4)
    plain.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_retinanet_takes_the_pyramid():
    backbone = keras_hub.models.RetinaNetBackbone(
        image_encoder=hub.CvTBackbone(TINY, image_shape=(64, 96, 3)),
        min_level=2,
        max_level=4,
        use_p5=False,
        image_shape=(64, 96, 3),
    )
    maps = backbone(images(64, 96))
    assert {level: tuple(m.shape[1:3]) for level, m in maps.items()} == {
        "P2": (16, 24),
        "P3": (8, 12),
        "P4": (4, 6),
    }
