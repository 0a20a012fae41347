import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def small(photos):
    """A photo of (40, 60, 3), for what does not depend on the content."""
    return np.array(Image.fromarray(photos[0]).resize((60, 40)))
