"""What tests of several files use; tests/support has the modules that they import."""

import gc
import re
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# The same few examples each time, however slow the machine is.
hypothesis.settings.register_profile(
    "few", max_examples=25, derandomize=True, database=None, deadline=None
)
hypothesis.settings.load_profile("few")


@pytest.fixture(scope="module", autouse=True)
def earlier_objects_out_of_sight():
    """What was imported, or is left of earlier modules, stays. So garbage collections, of which Keras
    asks for one for each layer that it quantizes, need not look through it: it would take a second."""
    gc.collect()
    gc.freeze()


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


def pytest_addoption(parser):
    parser.addoption("--turn", metavar="K/N", help="of the slow tests, the K-th of N shares only")


def pytest_collection_modifyitems(config, items):
    """Long files go first, for `--dist loadfile --no-loadscope-reorder`; then `--turn` chooses."""
    folder = Path(__file__).parent
    if missing := [name for name in LONG if not (folder / name).is_file()]:
        raise pytest.UsageError(f"tests/conftest.py: LONG names {missing[0]}, which is gone")
    place = {folder / name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))
    if turn := config.getoption("turn"):
        left_out = without_turn(items, turn)
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config.stash[LEFT_OUT] = [item.nodeid for item in left_out]


LEFT_OUT = pytest.StashKey[list[str]]()


def without_turn(items: list[pytest.Item], turn: str) -> list[pytest.Item]:
    """The slow tests of other turns. They are dealt out one by one, and those of a group together."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", turn)
    if not found or int(found[1]) > int(found[2]):
        raise pytest.UsageError(f"--turn must be K/N, such as 2/3. Received: {turn}")
    groups, left_out = {}, []
    for item in items:
        if marker := item.get_closest_marker("slow"):
            group = groups.setdefault((*marker.args, item.nodeid)[0], len(groups))
            if group % int(found[2]) != int(found[1]) - 1:
                left_out.append(item)
    return left_out


def pytest_sessionfinish(session):
    """A process of pytest-xdist tells the one that prints what it has left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = session.config.stash.get(LEFT_OUT, [])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left_out", [])


def pytest_terminal_summary(terminalreporter, config):
    if turn := config.getoption("turn"):
        left_out = config.stash.get(LEFT_OUT, [])
        terminalreporter.section(f"turn {turn} of the slow tests: {len(left_out)} are left out")
        for name in left_out:
            terminalreporter.line(name)
