"""Checks of arguments, and the words in which they are refused."""

from __future__ import annotations

import numbers
import operator
import unicodedata
from collections.abc import Sequence
from typing import Any

from keras_cvt._messages import did_you_mean

PROJECTIONS = ("dw_bn", "linear")


def check_int(name: str, value: Any, minimum: int) -> int:
    """The value as an integer, which must be at least `minimum`.

    Args:
        name: The argument's name, for the message.
        value: An integer of any kind, such as NumPy's, but no bool.

    Raises:
        ValueError: If it is anything else, or less.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}. Received {value!r}.")
    return number


def check_rate(name: str, value: Any) -> float:
    """The value as a float, which must be in [0, 1); ValueError otherwise."""
    if not isinstance(value, numbers.Real) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and less than 1. Received {value!r}.")
    return float(value)


def check_convolution(kernel_size: Any, strides: Any, padding: Any) -> tuple[int, int, int]:
    """The arguments of a convolution as integers; ValueError if no convolution has such."""
    return (
        check_int("kernel_size", kernel_size, 1),
        check_int("strides", strides, 1),
        check_int("padding", padding, 0),
    )


def check_heads(embed_dim: Any, num_heads: Any) -> tuple[int, int]:
    """Channels and heads as integers; ValueError if the heads do not divide the channels."""
    embed_dim = check_int("embed_dim", embed_dim, 1)
    num_heads = check_int("num_heads", num_heads, 1)
    if embed_dim % num_heads:
        raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}.")
    return embed_dim, num_heads


def check_projection(projection: Any) -> str:
    """The kind of projection, one of `PROJECTIONS`; ValueError otherwise."""
    if projection not in PROJECTIONS:
        raise ValueError(f"`projection` must be one of {PROJECTIONS}. Received {projection!r}.")
    return projection


def check_class_name(name: Any) -> str:
    """The name of a class; ValueError if a list of names, one on each line, would not keep it.

    Most readers of such lists, TensorFlow Datasets' and ours among them, strip the lines.
    """
    # Surrogates (Cs) are the bytes of a folder's name that are no UTF-8. Joiners between letters or
    # emoji (Cf) are part of names, though Python calls them not printable.
    broken = isinstance(name, str) and any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name
    )
    if not isinstance(name, str) or not name or broken:
        raise ValueError(f"A class name must be one line of text in UTF-8. Received {name!r}.")
    if name != name.strip():
        raise ValueError(f"A class name must not begin or end with a space. Received {name!r}.")
    return name


def check_class_names(class_names: Any) -> tuple[str, ...]:
    """The names of classes as a tuple, each one line and no two alike; ValueError otherwise."""
    if isinstance(class_names, str):
        raise ValueError(f"`class_names` must be a name for each class. Received {class_names!r}.")
    names = tuple(map(check_class_name, class_names))
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if places.setdefault(name, place) != place:
            raise ValueError(
                f"Classes must have different names. {places[name]} and {place} are both {name!r}."
            )
    return names


def check_block(
    embed_dim: Any,
    num_heads: Any,
    mlp_ratio: float,
    projection: Any,
    kernel_size: Any,
    strides_q: Any,
    padding_q: Any,
    strides_kv: Any,
    padding_kv: Any,
    **others: Any,
) -> None:
    """Refuses arguments of which no `CvTBlock` can be made. (To make one for that draws seeds.)"""
    check_projection(projection)
    embed_dim, _ = check_heads(embed_dim, num_heads)
    check_int("hidden_dim", int(embed_dim * mlp_ratio), 1)
    if projection == "linear":
        return
    kernel_size, strides_q, padding_q = check_convolution(kernel_size, strides_q, padding_q)
    check_convolution(kernel_size, strides_kv, padding_kv)
    if strides_q != 1 or 2 * padding_q != kernel_size - 1:
        raise ValueError(
            "A block adds the attention's result to its input, so the queries' convolution must "
            "keep the size of the map: strides_q=1 and padding_q=(kernel_size - 1) / 2. Received "
            f"kernel_size={kernel_size}, strides_q={strides_q}, padding_q={padding_q}."
        )


def unknown_choice(argument: str, value: Any, choices: Sequence[Any]) -> str:
    """An error message that names what is known and what was probably meant."""
    hint = did_you_mean(str(value), map(str, choices))
    return f"`{argument}` must be one of {', '.join(map(repr, choices))}. Received {value!r}.{hint}"
