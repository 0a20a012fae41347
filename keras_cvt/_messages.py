"""How messages say several things, or what an error says, in one line."""

from __future__ import annotations

from collections.abc import Sequence


def some(names: Sequence[str]) -> str:
    """The first three of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join((getattr(error, "message", "") or str(error) or type(error).__name__).split())
