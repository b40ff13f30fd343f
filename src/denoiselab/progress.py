"""The progress bar of long phases."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm


def bar(what: str, total: int, done: int = 0, *, unit: str = "img", shown: bool = True) -> Any:
    """A bar on stderr with rate and remaining time; to a file or a pipe it writes a line every ten seconds.

    Args:
        what: Name of the phase.
        total: Number of units.
        done: Units done before.
        unit: Name of the unit.
        shown: False on all ranks except the first.
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


def say(text: str) -> None:
    """Print a line on stderr, above the bars."""
    tqdm.write(text, file=sys.stderr)


class Steps:
    """An `on_step` of a sampler that adds the network calls of a batch to a bar.

    Args:
        bar: Counts network calls, summed over samples.
        calls: Network calls of the whole batch.
        check: Called with the moment of each step; an exception stops the sampler.
    """

    def __init__(self, bar: Any, calls: int, check: Callable[[Any], object]) -> None:
        self._bar, self._calls, self._check, self._done = bar, calls, check, 0

    def __call__(self, moment: Any) -> None:
        """Add the share of a step, if the number of steps is known."""
        self._check(moment)
        if moment.steps:
            self._advance(self._calls * moment.number // moment.steps)

    def finish(self) -> None:
        """Add the rest of the batch."""
        self._advance(self._calls)

    def _advance(self, done: int) -> None:
        self._bar.update(done - self._done)
        self._done = done
