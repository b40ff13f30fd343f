"""The progress bar of every long phase."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(what: str, total: int, done: int = 0, *, unit: str = "img", shown: bool = True) -> Any:
    """A bar on stderr that counts images, or what `unit` says: rate, time left, and what `set_postfix` adds.

    In a file or a pipe it writes a line every ten seconds.

    Args:
        what: The phase's name.
        total: Images in all.
        done: Images done before.
        unit: What is counted.
        shown: False on all ranks but the first.
    """
    interactive = sys.stderr.isatty()
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=True,
        file=sys.stderr,
        mininterval=0.1 if interactive else 10,
        ncols=None if interactive else 100,
        dynamic_ncols=interactive,
        disable=not shown,
    )
