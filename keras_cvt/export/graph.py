"""The model as a TensorFlow function, from which the other formats' converters start."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

import tensorflow as tf

from keras_cvt.export.classifier import Classifier


def forward(model: Classifier) -> tf.types.experimental.GenericFunction:
    """From `images`, preprocessed, to `probabilities`."""
    images = tf.TensorSpec(model.input_shape, tf.float32, name="images")

    @tf.function(input_signature=[images], autograph=False)
    def forward(images):
        return {"probabilities": model.model(images, training=False)["probabilities"]}

    return forward


def variables(model: Classifier) -> list[tf.Variable]:
    """What a module must hold for its functions to be saved."""
    return [variable.value for variable in model.model.variables]


@contextlib.contextmanager
def saved(model: Classifier) -> Iterator[str]:
    """A SavedModel with `forward` alone, for as long as the context lasts."""
    module = tf.Module()
    module.variables_ = variables(model)
    module.forward = forward(model)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": module.forward})
        yield folder
