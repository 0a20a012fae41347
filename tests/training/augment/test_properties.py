"""What holds for every image and every draw."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training import augment


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(0, 2**31 - 1),
    st.sampled_from([(0.08, 1.0), (0.9, 1.0), (1.0, 1.0), (0.01, 0.02)]),
    st.sampled_from([(3 / 4, 4 / 3), (0.2, 5.0), (1.0, 1.0)]),
)
@settings(max_examples=200)
def test_a_crop_lies_inside_the_image(height, width, seed, scale, ratio):
    box = augment.crop_box(height, width, augment.key(seed, 0), scale, ratio).numpy()
    top, left, crop_height, crop_width = box.tolist()
    assert box.dtype == np.int32
    assert 0 <= top <= top + crop_height <= height and crop_height > 0
    assert 0 <= left <= left + crop_width <= width and crop_width > 0
