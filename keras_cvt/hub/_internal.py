"""Everything private that this library uses of KerasHub, and nothing else.

tests/keras_cvt/hub/test_internal.py fails when KerasHub moves something.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras_hub.src.utils import preset_utils

CARD_FILE = "README.md"


def register_presets(presets: Mapping[str, Mapping[str, Any]], backbone: type) -> None:
    """Makes presets known by their names to every `from_preset` of KerasHub.

    Args:
        presets: By its name, what KerasHub tells of each (`"metadata"`), and `"kaggle_handle"`: where
            its files are, which may be any address that `from_preset` takes, or a folder.
        backbone: The class of the backbone.
    """
    preset_utils.register_presets(presets, backbone)
