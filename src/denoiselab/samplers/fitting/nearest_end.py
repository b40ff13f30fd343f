"""Grids with which a sampler ends nearest to a fine run, by a derivative-free search over their gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from denoiselab.samplers.fitting.grids import Problem
from denoiselab.samplers.fitting.local_errors import LocalErrors
from denoiselab.schedules import Level, Schedule

# Least half log-SNR of a grid's second level, on a schedule that starts at pure noise.
_LEAST_LAM = -5.0


class NearestEnd(LocalErrors):
    """The grid with which the sampler ends nearest to the reference.

    The best of `LocalErrors`'s grid and the usual ones is improved by scipy's Powell method, a derivative-free line
    search, over the gaps between levels.

    Source: the target is that of Tong et al., Learning to Discretize Denoising Diffusion ODEs, arXiv 2405.15506.

    Args:
        evaluations: Maximum number of runs of the sampler.
    """

    name = "nearest_end"

    def __init__(self, num_samples: int = 64, fine: int = 128, seed: int = 0, evaluations: int = 300) -> None:
        super().__init__(num_samples, fine, seed)
        if evaluations < 1:
            raise ValueError(f"evaluations={evaluations}: it must be at least 1.")
        self.evaluations = evaluations
        self.runs = evaluations + 10

    def search(self, problem: Problem) -> list[Level]:
        from scipy.optimize import minimize

        start = super().search(problem)
        best = min(problem.known, key=lambda grid: grid.distance)
        if best.distance < problem.distance(start):
            start = list(best.levels)
        knots = _Knots(problem.schedule, start, problem.reference.levels[-1], free_end=problem.clean)

        def cost(gaps: Any) -> float:
            levels = knots.levels(gaps)
            if any(here.lam >= there.lam for here, there in pairwise(levels)):  # a gap below rounding
                return math.inf
            value = problem.distance(levels)
            return math.log(value) if value > 0 else -100.0

        result = minimize(cost, knots.start, method="Powell", options={"maxfev": self.evaluations, "xtol": 1e-2})
        return min(start, knots.levels(result.x), key=problem.distance)


class _Knots:
    """A grid in terms of the logarithms of its gaps in half log-SNR: any numbers make one. Its first level is fixed.

    Args:
        schedule: Of the levels.
        levels: The grid to start with.
        last: The schedule's last level.
        free_end: Whether the last knot may lie before it.
    """

    def __init__(self, schedule: Schedule, levels: Sequence[Level], last: Level, *, free_end: bool) -> None:
        self._schedule, self._first, self._free_end = schedule, levels[0], free_end
        lam = [float(level.lam) for level in levels]
        # Pure noise has no finite log-SNR: the first gap begins at a level of almost no signal.
        self._low = lam[0] if math.isfinite(lam[0]) else min(_LEAST_LAM, *lam[1:]) - 1
        self._span = float(last.lam) - self._low
        ends = [self._low, *lam[1:], *([max(float(last.lam), lam[-1] + 1e-3 * self._span)] if free_end else [])]
        gaps = [b - a for a, b in pairwise(ends)]
        self.start = [math.log(gap / gaps[0]) for gap in gaps[1:]]

    def levels(self, gaps: Sequence[float]) -> list[Level]:
        """The grid."""
        weights = torch.tensor([0.0, *gaps], dtype=torch.float64).softmax(0)
        lam = self._low + self._span * weights.cumsum(0)
        return [self._first, *self._schedule.at(lam[:-1] if self._free_end else lam).unbind()]
