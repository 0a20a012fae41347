"""preprocess_input: arrays, tensors, graphs and models."""

import keras
import numpy as np
import pytest
from pictures import encode

from keras_cvt import imagenet
from keras_cvt.imagenet import preprocess_input


def expected_normalized(x):
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return (np.asarray(x, "float64") / 255 - mean) / std


@pytest.mark.parametrize("shape", [(3,), (4, 5, 3), (2, 4, 5, 3), (2, 1, 4, 5, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64"])
def test_preprocess_array(shape, dtype):
    x = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    before = x.copy()
    y = preprocess_input(x)
    assert isinstance(y, np.ndarray) and y.dtype == np.float32 and y.shape == shape
    np.testing.assert_allclose(y, expected_normalized(x), atol=1e-6)
    np.testing.assert_array_equal(x, before)


def test_preprocess_constants_and_range():
    assert imagenet.MEAN == (0.485, 0.456, 0.406)
    assert imagenet.STD == (0.229, 0.224, 0.225)
    low, high = preprocess_input(np.array([[0, 0, 0], [255, 255, 255]], "uint8"))
    np.testing.assert_allclose(low, [-2.117904, -2.035714, -1.804444], atol=1e-6)
    np.testing.assert_allclose(high, [2.248908, 2.428571, 2.64], atol=1e-6)


def test_preprocess_list():
    np.testing.assert_array_equal(
        preprocess_input([[1, 2, 3]]), preprocess_input(np.array([[1, 2, 3]]))
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
def test_preprocess_tensor_equals_array(dtype):
    x = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3)).astype("uint8")
    tensor = keras.ops.cast(keras.ops.convert_to_tensor(x), dtype)
    y = preprocess_input(tensor)
    assert keras.ops.is_tensor(y) and keras.backend.standardize_dtype(y.dtype) == "float32"
    y = keras.ops.convert_to_numpy(y)
    np.testing.assert_allclose(y, preprocess_input(x), atol=1e-6)  # 0..255 are exact in bfloat16
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.ops.cast(tensor, "int32")), x)


def test_preprocess_in_functional_model(tmp_path):
    inputs = keras.Input((None, None, 3), dtype="uint8")
    model = keras.Model(inputs, preprocess_input(inputs))
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(2).integers(0, 256, (2, 4, 5, 3)).astype("uint8")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        y = keras.ops.convert_to_numpy(each(x))
        np.testing.assert_allclose(y, preprocess_input(x), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf tensors are foreign there")
def test_preprocess_in_tf_data(small):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensors(small).map(preprocess_input)
    assert dataset.element_spec.dtype == tf.float32
    (y,) = dataset.as_numpy_iterator()
    np.testing.assert_allclose(y, preprocess_input(small), atol=1e-6)
    # decode_image does not even know the rank.
    dataset = tf.data.Dataset.from_tensors(encode(small)).map(tf.io.decode_image)
    assert dataset.element_spec.shape.rank is None
    (y,) = dataset.map(preprocess_input).as_numpy_iterator()
    np.testing.assert_allclose(y, preprocess_input(small), atol=1e-6)


def test_preprocess_data_format():
    x = np.ones((2, 4, 5, 3), "uint8")
    np.testing.assert_array_equal(preprocess_input(x, "channels_last"), preprocess_input(x))
    for data_format in ("channels_first", "nhwc"):
        with pytest.raises(ValueError, match=data_format):
            preprocess_input(x, data_format)
    keras.config.set_image_data_format("channels_first")
    try:
        np.testing.assert_array_equal(preprocess_input(x, "channels_last"), preprocess_input(x))
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (8, 8, 4), (8, 8, 1)])
def test_preprocess_wrong_channels(shape):
    x = np.zeros(shape)
    for each in (x, keras.ops.convert_to_tensor(x), keras.KerasTensor(shape)):
        with pytest.raises(ValueError, match=r"RGB images of shape \(\.\.\., 3\)"):
            preprocess_input(each)
