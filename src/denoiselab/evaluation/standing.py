"""Verdicts on cells whose number of samples grows look by look, and which cells need more samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from denoiselab.evaluation.verdicts.compare import TIE, Comparison, Estimate, compare
from denoiselab.evaluation.verdicts.sequential import Decisions, always_valid_multiple, simulated_multiple, wanted

SIMULATED, ALWAYS_VALID = "simulated", "always_valid"


class Undecidable(ValueError):  # noqa: N818
    """The cells of a frontier cannot be drawn until it is decided which of them are better; the message says why."""


class Stopping(NamedTuple):
    """When the cells of a frontier have enough samples.

    Attributes:
        level: Probability of any wrong verdict.
        max_samples: Of a cell, at most.
        boundary: `simulated`: valid at the planned looks up to `max_samples`; `always_valid`: however many follow.
    """

    level: float = 0.05
    max_samples: int = 50_000
    boundary: str = SIMULATED


class Entrant(NamedTuple):
    """A cell of the frontier.

    Attributes:
        key: Hash of its protocol without the number of samples.
        title: For the user.
        budget: Cells of equal budgets compete.
    """

    key: str
    title: str
    budget: float


@dataclass
class Standing:
    """Where a frontier stands between two looks.

    Args:
        looks: Planned numbers of samples.
        open: Cells that need the samples of the next look.
        n: Samples of each cell.
        losses: Of each cell at its n; None before the first look, or if it failed.
        costs: Of each cell; None as for losses.
        decisions: On pairs of cells.
        tightest: The n at which an always valid boundary is the narrowest.
        taken: Number of looks.
        multiple: The simulated multiple of the standard error, of all cells at the first look.
    """

    looks: list[int]
    open: list[int]
    n: list[int]
    losses: list[float | None]
    costs: list[float | None]
    decisions: Decisions
    tightest: float
    taken: int = 0
    multiple: float | None = None

    @classmethod
    def at_start(cls, cells: int, looks: Sequence[int]) -> Standing:
        """All cells are open."""
        nothing: list[float | None] = [None] * cells
        return cls([*looks], [*range(cells)], [0] * cells, nothing, [*nothing], Decisions.none(cells), looks[-1] / 4)

    def take(self, estimates: Sequence[Estimate | None], entrants: Sequence[Entrant], stopping: Stopping) -> None:
        """Compare the open cells at the next look, and find those that need more samples.

        Args:
            estimates: Of the open cells at this look; None for one that failed.
            entrants: All cells.
            stopping: When they have enough samples.

        Raises:
            Undecidable: If a score has no standard error.
        """
        n = self.looks[self.taken]
        live = [(cell, one) for cell, one in zip(self.open, estimates, strict=True) if one is not None]
        for cell in self.open:
            self.n[cell], self.losses[cell], self.costs[cell] = n, None, None
        self.taken += 1
        if live:
            cells, given = zip(*live, strict=True)
            comparison = compare(given, stopping.level)
            self._decide(cells, n, comparison, stopping)
        self._reopen(entrants)

    def extend(self, looks: Sequence[int], entrants: Sequence[Entrant]) -> None:
        """Allow more samples a cell; valid for an always valid boundary alone."""
        more = [n for n in looks if n > self.looks[-1]]
        if more and self.taken:
            self.looks += more
            self._reopen(entrants)

    def _reopen(self, entrants: Sequence[Entrant]) -> None:
        left = chain.from_iterable(self._left(entrants))
        self.open = sorted({*left}) if self.taken < len(self.looks) else []

    def _decide(self, cells: Sequence[int], n: int, comparison: Comparison, stopping: Stopping) -> None:
        sign = 1 if comparison.estimates[0].lower_is_better else -1
        if bool(comparison.covariance.diagonal().isnan().any()):
            raise Undecidable("stop=decided: the first metric has no standard error; choose another, or fixed.")
        for cell, one in zip(cells, comparison.estimates, strict=True):
            value = one.value if comparison.at == "n" else one.value_at_infinity
            assert value is not None
            self.losses[cell], self.costs[cell] = sign * value, one.cost
        if stopping.boundary == ALWAYS_VALID:
            count = len(self.n)
            multiple = always_valid_multiple(n, self.tightest, stopping.level, max(1, count * (count - 1) // 2))
        else:
            if self.multiple is None:
                self.multiple = simulated_multiple(comparison.covariance, self.looks, stopping.level)
            multiple = self.multiple
        error = comparison.standard_error.clone()
        for j in range(len(cells)):
            for k in range(len(cells)):
                if comparison.verdict(j, k) == TIE:
                    error[j, k] = 0.0
        self.decisions.compare(cells, n, sign * comparison.difference, error, multiple)

    def dominated(self) -> list[int | None]:
        """For each cell one of equal or less cost that is surely better, or None."""
        return self.decisions.dominated([math.nan if cost is None else cost for cost in self.costs])

    def _left(self, entrants: Sequence[Entrant]) -> list[tuple[int, int]]:
        """Wanted pairs that are not decided."""
        kept = [cell for cell, by in enumerate(self.dominated()) if by is None and self.losses[cell] is not None]
        losses, costs = ([value or 0.0 for value in values] for values in (self.losses, self.costs))
        pairs = wanted(losses, costs, [entrant.budget for entrant in entrants], kept)
        return [pair for pair in pairs if not self.decisions.decided[pair]]

    def reasons(self, entrants: Sequence[Entrant]) -> list[str]:
        """Why each cell has no more samples, once no cell is open."""
        dominated = self.dominated()
        left = {*chain.from_iterable(self._left(entrants))}
        out = []
        for cell, by in enumerate(dominated):
            if self.losses[cell] is None:
                out.append("failed")
            elif by is not None:
                out.append(f"surely worse than {entrants[by].title}")
            else:
                out.append(f"undecided after {self.n[cell]}" if cell in left else "decided")
        return out

    def undecided(self, entrants: Sequence[Entrant]) -> list[tuple[int, int, float]]:
        """Wanted pairs that are not decided, with the upper end of the interval of |difference|."""
        upper = self.decisions.difference.abs() + self.decisions.bound
        return [(*pair, float(upper[pair])) for pair in self._left(entrants)]

    def state(self) -> dict[str, Any]:
        """As plain containers."""
        return {**vars(self), "decisions": self.decisions.state()}

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Standing:
        """From `state`."""
        return cls(**{**state, "decisions": Decisions.read(state["decisions"])})
