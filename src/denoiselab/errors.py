"""Bad input, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class BadInput(ValueError):  # noqa: N818
    """Something the user gave cannot be used; the message names the option, the value and what is allowed."""


class Failure(Exception):  # noqa: N818
    """A run cannot go on, for a reason that the message says in full."""


def not_given(option: str) -> BadInput:
    """The error for an option without a value."""
    return BadInput(f"{option}: is not given and has no default; pass {option}=...")


def check_given(node: Mapping[str, Any], option: str = "") -> None:
    """Refuse a node, called `option`, with an option without a value."""
    for name, value in node.items():
        if value == "???":
            raise not_given(f"{option}.{name}" if option else name)


def closest(word: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? ` or nothing."""
    match = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"did you mean '{match[0]}'? " if match else ""
