"""Bad input, said in one sentence."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from typing import Any


class BadInput(ValueError):  # noqa: N818
    """Something the user gave cannot be used; the message names the option, the value and what is allowed."""


class Failure(Exception):  # noqa: N818
    """A run cannot go on, for a reason that the message says in full."""


def not_given(option: str, what: str = "") -> BadInput:
    """The error for an option without a value; `what` says what it is, in a docstring's sentence."""
    start = what[:1].lower() if what[1:2].islower() or what[1:2] == " " else what[:1]
    return BadInput(f"{option}: is not given and has no default; pass {option}=..." + (what and f": {start}{what[1:]}"))


def check_given(node: Mapping[str, Any], option: str = "") -> None:
    """Refuse a node, called `option`, with an option without a value."""
    for name, value in node.items():
        if value == "???":
            raise not_given(f"{option}.{name}" if option else name)


def whole(name: str, value: Any, least: int) -> int:
    """A whole number from `least` to below 2**63, called `name`, as an int; NumPy's are taken too.

    Raises:
        BadInput: If it is none.
    """
    refusal = BadInput(f"{name}={value!r}: it must be a whole number of at least {least}.")
    try:
        number = operator.index(value)
    except TypeError:
        raise refusal from None
    if isinstance(value, bool) or not least <= number < 2**63:
        raise refusal
    return number


def closest(word: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? ` or nothing."""
    match = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.6)
    return f"did you mean '{match[0]}'? " if match else ""
