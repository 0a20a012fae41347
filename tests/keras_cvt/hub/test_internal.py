"""KerasHub still has what keras_cvt/hub/_internal.py uses of its private parts.

A failure here means that a new version of KerasHub has moved something. Adapt
keras_cvt/hub/_internal.py; nothing else uses a private name of KerasHub. Or give keras-hub an upper
bound in setup.py until that is done.
"""

from pathlib import Path

import keras_hub
from small_models import TINY

import keras_cvt.hub
from keras_cvt.hub import _internal


def test_nothing_else_is_private():
    folder = Path(keras_cvt.hub.__file__).parent
    using = {p.name for p in folder.glob("*.py") if "keras_hub.src" in p.read_text("utf-8")}
    assert using == {"_internal.py"}


def test_registered_presets_are_loaded_from_where_they_say(tmp_path):
    class Where(dict):
        asked = 0

        def __getitem__(self, key):
            if key == "kaggle_handle":
                Where.asked += 1
                return str(tmp_path)
            return super().__getitem__(key)

    class Backbone(keras_cvt.hub.CvTBackbone):
        pass

    _internal.register_presets({"keras_cvt_test": Where(metadata={"params": 1})}, Backbone)
    backbone = keras_cvt.hub.CvTBackbone(TINY)
    backbone.save_to_preset(tmp_path)
    assert (tmp_path / "model.weights.h5").is_file()
    loaded = keras_hub.models.Backbone.from_preset("keras_cvt_test", load_weights=False)
    assert type(loaded) is keras_cvt.hub.CvTBackbone
    assert Where.asked, f"KerasHub {keras_hub.__version__} does not look where the preset is."
