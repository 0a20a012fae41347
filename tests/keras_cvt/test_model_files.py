"""Whole models in `.keras` files (keras_cvt/_model_files.py)."""

from __future__ import annotations

import json
import zipfile

import keras
import pytest
from small_models import tiny

from keras_cvt._model_files import load_model


@pytest.mark.parametrize(
    ("saved_by", "said"),
    [
        (
            "3.999.0",
            rf"Keras 3\.999\.0 saved it, and here is Keras {keras.__version__}\. .*weights=",
        ),
        (keras.__version__, r"can't be loaded: <class"),
        (None, r"can't be loaded: <class"),
    ],
)
def test_a_later_keras_is_named_where_its_model_cannot_be_read(tmp_path, saved_by, said):
    """As the `quantization_config` that Keras 3.15 gives to Dense can't be by 3.10."""
    tiny().save(tmp_path / "here.keras")
    path = tmp_path / "changed.keras"
    with zipfile.ZipFile(tmp_path / "here.keras") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == "config.json":
                config = json.loads(data)
                config["config"]["layers"][-1]["config"]["of_later"] = None
                data = json.dumps(config)
            if name == "metadata.json":
                data = json.dumps({} if saved_by is None else {"keras_version": saved_by})
            target.writestr(name, data)
    load_model(tmp_path / "here.keras")
    with pytest.raises(ValueError, match=said) as error:
        load_model(path)
    assert "of_later" in str(error.value)
