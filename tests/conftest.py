"""What tests of several files use; tests/support has the modules that they import."""

import hypothesis
import numpy as np
import pytest

# The same few examples each time, however slow the machine is.
hypothesis.settings.register_profile(
    "few", max_examples=25, derandomize=True, database=None, deadline=None
)
hypothesis.settings.load_profile("few")


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """scikit-learn's two real photos, a temple and a flower: (427, 640, 3) uint8."""
    from sklearn.datasets import load_sample_images

    images = load_sample_images().images
    assert [image.shape for image in images] == [(427, 640, 3)] * 2
    return images
