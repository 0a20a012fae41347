"""The operations are Pillow's, as timm applies them (augment.operations)."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from augment_cases import FILL, photos, pillow
from backend import needs_xla

from benchmarks import pillow_recipe
from training.augment import operations, policy

MAGNITUDES = (0.0, 2.0, 5.0, 8.3, 9.0, 9.6, 10.0)
INTERPOLATING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


def compiled(name: str):
    """The operation in a graph that knows no sizes, as in an input pipeline."""

    @tf.function(
        input_signature=[
            tf.TensorSpec((None, None, 3), tf.uint8),
            tf.TensorSpec((), tf.float64),
            tf.TensorSpec((), tf.float64),
        ]
    )
    def operation(image, magnitude, sign):
        return operations.apply_operation(name, image, magnitude, sign, FILL)

    return operation


def test_the_operations_are_timms_fifteen():
    assert tuple(operations.OPERATIONS) == pillow_recipe.OPERATIONS
    assert len(operations.OPERATIONS) == 15


@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_an_operation_is_pillows(name):
    operation = compiled(name)
    for image in photos():
        for magnitude in MAGNITUDES:
            for sign in (1.0, -1.0):
                mine = operation(image, magnitude, sign).numpy().astype(int)
                difference = np.abs(mine - pillow(name, image, magnitude, sign))
                if name in INTERPOLATING:
                    # float32 beside Pillow's float64, before both are truncated.
                    assert difference.max() <= 1
                    assert difference.mean() < 0.01
                else:
                    assert difference.max() == 0, (magnitude, sign)


@pytest.mark.parametrize("name", policy._COMPILED)
def test_so_it_is_compiled_by_xla(name):
    needs_xla()
    operation, image = policy._operation(name, FILL, compiled=True), photos()[0]
    for magnitude, sign in ((0.0, 1.0), (3.0, -1.0), (9.7, 1.0)):
        mine = operation(image, tf.constant(magnitude), tf.constant(sign)).numpy().astype(int)
        difference = np.abs(mine - pillow(name, image, magnitude, sign))
        assert difference.max() <= 1 and difference.mean() < 0.01


@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_an_operation_is_pillows_on_special_images(name):
    operation, random = compiled(name), np.random.default_rng(0)
    specials = [
        np.full((9, 7, 3), 137, np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        random.integers(0, 256, (2, 3, 3), np.uint8),
        random.integers(0, 256, (40, 31, 3), np.uint8),
        random.integers(100, 102, (40, 31, 3), np.uint8),
    ]
    for image in specials:
        for sign in (1.0, -1.0):
            mine = operation(image, 9.0, sign).numpy().astype(int)
            difference = np.abs(mine - pillow(name, image, 9.0, sign))
            assert difference.max() <= (name in INTERPOLATING)
            assert difference.mean() < 0.01
