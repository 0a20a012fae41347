"""Presets on a hub, with their model cards."""

from __future__ import annotations

import os
from pathlib import Path

import keras_hub

from keras_cvt.hub._internal import CARD_FILE
from keras_cvt.hub.card import Card

_HUGGING_FACE = "hf://"


def write_model_card(
    preset: str | os.PathLike,
    *,
    license: str = "",
    recipe: str = "",
    data: str = "",
    accuracy: str = "",
) -> None:
    """Writes the model card of a preset, README.md; the architecture is read from the preset.

    Args:
        preset: Folder that `save_to_preset` has written.
        license: As the Hugging Face hub spells it, such as `"apache-2.0"`. Defaults to `""`: the card
            says that it is not stated, as it does of the others.
        recipe: How the model was trained. Defaults to `""`.
        data: With what. Defaults to `""`.
        accuracy: What was measured, on what. Defaults to `""`.

    Raises:
        OSError: If the preset can't be read, or the card not be written.
    """
    Card(license, recipe, data, accuracy).write(preset)


def upload_preset(uri: str, preset: str | os.PathLike) -> None:
    """Uploads a preset with its model card, as `keras_hub.upload_preset` does with one of its own.

    Args:
        uri: `"hf://USER/MODEL"`, or `"kaggle://USER/MODEL/keras/VARIATION"`.
        preset: Folder that `save_to_preset` has written, with the card that `write_model_card` has.

    Raises:
        FileNotFoundError: If there is no preset, or no card in it.
        ValueError: For another address.

    Example:

    ```python
    classifier.save_to_preset("pets")
    keras_cvt.hub.write_model_card("pets", license="apache-2.0", data="Oxford-IIIT Pet")
    keras_cvt.hub.upload_preset("hf://me/cvt13_pets", "pets")
    ```
    """
    card = Path(preset, CARD_FILE)
    if Path(preset).is_dir() and not card.is_file():
        raise FileNotFoundError(
            f"{preset} has no model card. Write one: keras_cvt.hub.write_model_card({preset!r}, ...)"
        )
    if uri.startswith(_HUGGING_FACE) and card.is_file():
        import huggingface_hub

        # KerasHub writes its own card over the folder's, unless the repository has one.
        repo = huggingface_hub.create_repo(uri.removeprefix(_HUGGING_FACE), exist_ok=True)
        huggingface_hub.upload_file(
            path_or_fileobj=card, path_in_repo=CARD_FILE, repo_id=repo.repo_id
        )
    keras_hub.upload_preset(uri, os.fspath(preset))
