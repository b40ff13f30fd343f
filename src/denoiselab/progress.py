"""The progress bar of long phases."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

# Of bars in files.
_LINE = "{desc}: {percentage:3.0f}% of {total_fmt} {unit}, {rate_fmt}, {elapsed} gone, {remaining} left{postfix}"


class _Nowhere:
    """A file for what a bar writes to move on a terminal."""

    def write(self, text: str) -> None:
        pass

    def flush(self) -> None:
        pass


class _Lines(tqdm):
    """A bar that writes whole lines to stderr: none while nothing is done, and at a stop none again within a second."""

    _written: int | None = None

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        stopped = self.disable and self.n < self.total  # it is closed
        if self.n in (self.initial, self._written) or (stopped and self._time() - self.last_print_t < 1):
            return
        self._written = self.n
        sys.stderr.write(f"{str(self).strip()}\n")
        sys.stderr.flush()


def bar(what: str, total: int, done: int = 0, *, unit: str = "img", shown: bool = True) -> Any:
    """A bar on stderr with rate and remaining time; in a file or a pipe a line every ten seconds, and one at the end.

    Args:
        what: Name of the phase.
        total: Number of units.
        done: Units done before.
        unit: Name of the unit.
        shown: False on all ranks except the first.
    """
    interactive = sys.stderr.isatty()
    return (tqdm if interactive else _Lines)(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=True,
        file=sys.stderr if interactive else _Nowhere(),
        mininterval=0.1 if interactive else 10,
        dynamic_ncols=interactive,
        bar_format=None if interactive else _LINE,
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
