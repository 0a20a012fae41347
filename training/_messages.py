"""How messages say several things, or what an error says, in one line."""

from __future__ import annotations

from collections.abc import Sequence


def some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def one_line(error: Exception) -> str:
    """What an error says, for a message of one line."""
    return " ".join((getattr(error, "message", "") or str(error) or type(error).__name__).split())
