"""What tests of several files use; tests/support has the modules that they import."""

from pathlib import Path

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


# With two processes, a long file that begins last is waited for by an idle one.
LONG = (
    "colab/test_notebooks.py",
    "keras_cvt/test_model_contract.py",
    "keras_cvt/layers/test_contract.py",
    "training/engine/test_loop.py",
    "training/test_resuming.py",
    "training/test_train.py",
    "keras_cvt/test_models.py",
    "keras_cvt/export/test_export.py",
    "keras_cvt/export/test_saved_model.py",
    "training/distribute/test_distribute.py",
    "training/test_faults.py",
    "training/test_imagenet_run.py",
    "keras_cvt/test_deployment.py",
    "training/data/test_pipeline.py",
)


def pytest_collection_modifyitems(items):
    """Long files go first, for `--dist loadfile --no-loadscope-reorder`."""
    folder = Path(__file__).parent
    if missing := [name for name in LONG if not (folder / name).is_file()]:
        raise pytest.UsageError(f"tests/conftest.py: LONG names {missing[0]}, which is gone")
    place = {folder / name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))
