"""What tests of weights and of their conversion share."""

from __future__ import annotations

import pytest
import reference_models
from reference_models import tiny

from keras_cvt import checkpoints
from keras_cvt.weights import names


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The reference weights under all names and in all formats."""
    path = tmp_path_factory.mktemp("weights")
    state = reference_models.state_dict("tiny")
    checkpoints.write_safetensors(path / "official.safetensors", state)
    checkpoints.write_safetensors(
        path / "huggingface.safetensors", {names.huggingface(k): v for k, v in state.items()}
    )
    (path / "official.pth").write_bytes(
        (reference_models.FOLDER / "tiny" / "official.pth").read_bytes()
    )
    model = tiny(weights=path / "official.pth")
    model.save(path / "model.keras")
    model.save_weights(path / "model.weights.h5")
    return path
