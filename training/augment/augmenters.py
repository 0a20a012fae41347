"""Whose augmentation it is."""

from __future__ import annotations

AUGMENTERS = ("timm", "keras_cv", "none")


def check_augmenter(augmenter: str) -> None:
    """Refuses an unknown augmenter.

    Raises:
        ValueError: If it is none of `AUGMENTERS`.
    """
    if augmenter not in AUGMENTERS:
        raise ValueError(
            f"`augmenter` must be one of {', '.join(AUGMENTERS)}. Received {augmenter!r}."
        )
