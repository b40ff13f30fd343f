"""Bad input, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from rich.console import Console


class BadInput(Exception):  # noqa: N818
    """Something the user gave cannot be used; the message names the option, the value and what is allowed."""


def console(*, stderr: bool = False) -> Console:
    """Prints text as it is, whatever brackets it holds, and does not break paths."""
    return Console(stderr=stderr, soft_wrap=True, highlight=False, markup=False, emoji=False)


def closest(word: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? ` or nothing."""
    match = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f"did you mean '{match[0]}'? " if match else ""
