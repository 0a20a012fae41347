"""How messages say several things, or what an error says, in one line."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """ " Did you mean 'cvt13'?" for "cvt133", to end a message; "" if no choice is similar."""
    close = difflib.get_close_matches(value, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def look_alike(names: Iterable[str]) -> str:
    """ " 'cafe\\u0301' and 'caf\\xe9' look alike." of names that are one to the eye, or "".

    A letter and its accent are one character or two: systems differ in how they store names.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFC", name), name)
        if other != name:
            return f" {other!a} and {name!a} look alike."
    return ""


def some(names: Sequence[str]) -> str:
    """The first three of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def one_line(error: BaseException) -> str:
    """What an error says, in one line; without the operations that TensorFlow names."""
    if message := getattr(error, "message", ""):
        message = _OPERATIONS.sub("", message)
    return " ".join((message or str(error) or type(error).__name__).split())


# "[[{{node A}}]]", "{{function_node A}} " and " [Op:A] name: A", as in errors of TensorFlow.
_OPERATIONS = re.compile(r"\s*\[\[.*?\]\]|\{\{.*?\}\}\s*|\s*\[Op:.*?\](\s*name:.*)?", re.DOTALL)
