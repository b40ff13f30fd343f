"""Solvers as tables of numbers: what they combine, and the level that each call is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.noise import Noise
from denoiselab.samplers import Sampler
from denoiselab.samplers.base import Planned
from denoiselab.samplers.multistep import Combination
from denoiselab.schedules import Level, Schedule

# Half log-SNR in a file for pure noise: `Schedule.at` goes no lower.
_PURE = -100.0


class Solver(NamedTuple):
    """x_(k+1) = c_k0 x_k + sum_j c_k(j+1) m_(k-j), where m_i is the x0 predicted from x_i at the asked level i.

    Attributes:
        levels: Of x_0 to x_n, the noisiest first.
        asked: `(n,)` float64, half log-SNRs of the levels that the network is told.
        coefficients: `(n, n + 1)` float64, c: those of predictions the newest first.
    """

    levels: list[Level]
    asked: Tensor
    coefficients: Tensor

    @property
    def own(self) -> Tensor:
        """`(n,)` float64: half log-SNRs of the levels that the states have, -100 for pure noise."""
        return torch.stack([level.lam for level in self.levels[:-1]]).clamp_min(_PURE)

    def plan(self, schedule: Schedule) -> list[Planned]:
        """The steps of a run."""
        steps = []
        own = self.own
        for k, here in enumerate(self.levels[:-1]):
            asked = here if self.asked[k] == own[k] else schedule.at(self.asked[k])
            row = self.coefficients[k, : k + 2].tolist()
            while len(row) > 2 and row[-1] == 0:
                row.pop()
            step = Combination(asked, self.levels[k + 1], _x0, row, len(self.levels), 0.0)
            steps.append(Planned(step, self.levels[k + 1]))
        return steps

    def end(self, denoise: Denoise, schedule: Schedule, x: Tensor) -> Tensor:
        """The last state of a run from x `(B, *)`; differentiable in `asked` and `coefficients`."""
        rows, past = self.coefficients.to(x), list[Tensor]()
        for k in range(len(rows)):
            past.insert(0, denoise(x, self.told(k, schedule, self.asked[k])).x0)
            x = rows[k, 0] * x
            for c, m in zip(rows[k, 1:], past, strict=False):
                x = x + c * m
        return x

    def told(self, k: int, schedule: Schedule, lam: Tensor) -> Level:
        """The level that call k tells the network for a half log-SNR; pure noise is told as it is."""
        here = self.levels[k]
        return here if here.alpha == 0 else replace(told(schedule, lam), step=here)


def _x0(prediction: Prediction) -> Tensor:
    return prediction.x0


def told(schedule: Schedule, lam: Tensor) -> Level:
    """The level at a half log-SNR, a float64 scalar, differentiable in it; beyond the range, the nearest end.

    The inverse of a schedule is a search, so the slope of t is the inverse of that of the half log-SNR.
    """
    with torch.no_grad():
        t = schedule.at(lam).t
        level = schedule.level(t)
        d_alpha, d_sigma = schedule.derivatives(t)
        slope = d_alpha / level.alpha - d_sigma / level.sigma
    return schedule.level(t + (lam - lam.detach()) / slope)


def solver_of(sampler: Sampler, schedule: Schedule) -> Solver:
    """A deterministic sampler of one network call a step as a table, by running it on predictions that are a basis.

    Every such rule is linear in x_T and the predictions, those of eps and the velocity too.

    Raises:
        ValueError: If the sampler is stochastic, chooses its steps, has a threshold, or makes several calls a step.
    """
    name = type(sampler).__name__
    if sampler.stochastic or sampler.adaptive:
        raise ValueError(f"sampler={name}: it must be deterministic and not adaptive.")
    if sampler.threshold is not None:
        raise ValueError(f"sampler.threshold={type(sampler.threshold).__name__}: a fitted solver has none; use null.")
    levels = sampler.grid(schedule)
    n = len(levels) - 1
    basis, states = torch.eye(2 * n + 2, dtype=torch.float64), list[Tensor]()

    def denoise(x: Tensor, level: Level, /) -> Prediction:
        states.append(x[0])
        m = basis[None, min(len(states), 2 * n)]
        return Prediction(m, (x - level.alpha * m) / level.sigma)

    states.append(sampler.run(denoise, schedule, levels, basis[:1], Noise(0, torch.zeros(1, dtype=torch.int64)))[0])
    if len(states) != n + 1:
        raise ValueError(
            f"sampler={name}: it makes {len(states) - 1} calls in {n} steps; a solver is fitted on one call a step, "
            "as of dpmpp_2m, ddim or unipc."
        )
    coefficients = torch.zeros(n, n + 1, dtype=torch.float64)
    for k, (here, there) in enumerate(pairwise(states)):
        keep = there[0] / here[0]
        coefficients[k, 0] = keep
        coefficients[k, 1 : k + 2] = (there - keep * here)[1 : k + 2].flip(0)
    # What is left of a rule that takes fewer predictions is rounding.
    coefficients[coefficients.abs() < 1e-12] = 0
    own = torch.stack([level.lam for level in levels[:-1]])
    return Solver(list(levels), own.clamp_min(_PURE), coefficients)


def rms(x: Tensor, end: Tensor) -> Tensor:
    """RMS distances `(B,)` of samples `(B, *)`."""
    return (x - end).flatten(1).square().mean(1).sqrt()


class Batch(NamedTuple):
    """Starts, and states of the fine run from them.

    Attributes:
        numbers: `(B,)` int64, of the starts and of their conditions.
        states: x_T, what the fine run has at levels of the solver, if kept, and its end, each `(B, *)`.
    """

    numbers: Tensor
    states: list[Tensor]

    @property
    def x(self) -> Tensor:
        """x_T."""
        return self.states[0]

    @property
    def end(self) -> Tensor:
        """Where the fine run ends."""
        return self.states[-1]


@torch.no_grad()
def mean_rms(
    solver: Solver,
    schedule: Schedule,
    bind: Callable[[Tensor], Denoise],
    batches: Sequence[Batch],
    check: Callable[[int], None] = lambda rows: None,
) -> float:
    """The mean RMS distance of a solver's ends, infinite if one is not finite.

    Args:
        solver: The solver.
        schedule: Its path.
        bind: The denoiser of samples `(B,)`.
        batches: The starts.
        check: Called after each batch with the rows of its network calls.
    """
    total = 0.0
    for batch in batches:
        total += float(rms(solver.end(bind(batch.numbers), schedule, batch.x), batch.end).double().sum())
        check(len(batch.x) * len(solver.asked))
    return total / sum(len(batch.x) for batch in batches) if math.isfinite(total) else math.inf
