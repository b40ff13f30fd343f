"""One number of a frontier: what a sweep minimises, and by which a checkpoint is chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from denoiselab.evaluation.frontier import Frontier
from denoiselab.evaluation.records import Record, loss

_FORM = re.compile(r"frontier/(?P<which>[\w.@-]+?)(@(?P<nfe>\d+))?")
BEST = "best"


class OptimizedMetric:
    """The best score of some cells, of the frontier's primary metric; negated where more is better, so less is better.

    Args:
        name: `frontier/best` for all cells, `frontier/best@10` for those of at most 10 network calls,
            `frontier/ddim@10` or `frontier/ddim` for those of one sampler.

    Raises:
        ValueError: If the name is none of these.
    """

    def __init__(self, name: str) -> None:
        parts = _FORM.fullmatch(name)
        if parts is None:
            raise ValueError(
                f"optimized_metric={name}: allowed: frontier/best, frontier/best@10, frontier/<sampler>@10, "
                "held_out/loss."
            )
        self.name = name
        self._sampler = None if parts["which"] == BEST else parts["which"]
        self._nfe = None if parts["nfe"] is None else int(parts["nfe"])

    def check(self, frontier: Frontier) -> None:
        """Check that a frontier has such a cell.

        Raises:
            ValueError: If it has none.
        """
        cells = zip(frontier.cells, frontier.calls, strict=True)
        if not any(self._covers(sampler, calls) for (sampler, _), calls in cells):
            raise ValueError(
                f"optimized_metric={self.name}: no cell of the frontier has it; samplers are "
                f"[{', '.join(frontier.samplers)}], network calls {sorted(set(frontier.calls))}."
            )

    def best(self, records: Iterable[Record]) -> Record:
        """The cell with the best score.

        Raises:
            ValueError: If all of its cells failed.
        """
        cells = [record for record in records if self._covers(record["sampler"], record["nfe"])]
        scored = [record for record in cells if record["score"] is not None]
        if not scored:
            raise ValueError(f"optimized_metric={self.name}: none of its cells has a score; {_reasons(cells)}")
        return min(scored, key=loss)

    def __call__(self, records: Iterable[Record]) -> float:
        """The value of the metric.

        Raises:
            ValueError: If all of its cells failed.
        """
        return loss(self.best(records))

    def _covers(self, sampler: str, nfe: float) -> bool:
        return self._sampler in (None, sampler) and (self._nfe is None or nfe <= self._nfe)


def _reasons(cells: Sequence[Record]) -> str:
    return cells[0]["error"] if cells else "the adaptive samplers took more network calls."
