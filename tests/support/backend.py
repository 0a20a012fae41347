"""What the backends of Keras do each in their own way: arrays, gradients and compilation."""

import keras
import numpy as np
import pytest

from keras_cvt._backend import xla_on_host

BACKEND = keras.backend.backend()


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def floats(tensor):
    """float32 in NumPy, which knows no bfloat16."""
    return numpy(keras.ops.cast(tensor, "float32"))


def gradients(call, layer, *inputs):
    """Gradients of a scalar with respect to the trainable weights of a layer or model.

    Args:
        call: a function of the layer and the inputs that returns a scalar tensor.

    Returns:
        The scalar; and numpy arrays by the weights' paths, None where a weight was not reached.
    """
    variables = layer.trainable_variables
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = call(layer, *inputs)
        grads = tape.gradient(value, [v.value for v in variables])
    elif BACKEND == "jax":
        import jax

        def function(values):
            pairs = list(zip(variables, values, strict=True))
            with keras.StatelessScope(state_mapping=pairs) as scope:
                value = call(layer, *inputs)
            updates = [scope.get_current_value(v) for v in layer.non_trainable_variables]
            return value, updates

        values = [v.value for v in variables]
        (value, updates), grads = jax.jit(jax.value_and_grad(function, has_aux=True))(values)
        for variable, update in zip(layer.non_trainable_variables, updates, strict=True):
            if update is not None:
                variable.assign(update)
    else:
        for variable in variables:
            variable.value.grad = None
        value = call(layer, *inputs)
        value.backward()
        grads = [v.value.grad for v in variables]
        value = value.detach()
    return float(numpy(value)), {
        v.path: None if g is None else np.asarray(numpy(g))
        for v, g in zip(variables, grads, strict=True)
    }


def has_xla():
    """Whether the backend compiles with XLA for the processor. TensorFlow's TPU wheel does not."""
    return BACKEND == "jax" or (BACKEND == "tensorflow" and xla_on_host())


def needs_xla():
    """Skips a test where TensorFlow has no XLA for the processor."""
    if BACKEND == "tensorflow" and not has_xla():
        pytest.skip("this TensorFlow has no XLA for the processor")


def compiled(function):
    """The function compiled by the backend: with XLA on TensorFlow and JAX; as it is on torch."""
    needs_xla()
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function
