import pytest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.bin"


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")
