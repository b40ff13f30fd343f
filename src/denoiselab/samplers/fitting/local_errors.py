"""Grids of least local errors, by dynamic programming over the levels of a fine run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoiselab.samplers.fitting.grids import GridSearch, Problem, Reference
from denoiselab.schedules import Level


class LocalErrors(GridSearch):
    """The grid with the least sum of local errors, by dynamic programming over the levels of the reference.

    The error of a step is that of DDIM from the reference's state, relative to the scale of the noisy state, so that
    errors of all levels count equally at the end. It needs the calls of the reference only, and is blind to the
    sampler's order: with DPM-Solver++(2M) its grid can end 2.4 times farther from the reference than a usual one, which
    is then the one chosen.

    Source: Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, arXiv 2405.11326, section 4,
    with this unit of the error; Watson et al., arXiv 2106.03802, for the programme.
    """

    name = "local_errors"

    def search(self, problem: Problem) -> list[Level]:
        errors = _step_errors(problem.reference, clean=problem.clean)
        path = shortest(errors, len(problem.known[0].levels), clean=problem.clean)
        return [problem.reference.levels[i] for i in path]


def _step_errors(reference: Reference, *, clean: bool) -> Tensor:
    """The error of DDIM's step from each level to each later one, `(K, K)` or with clean data `(K, K + 1)`."""
    count = len(reference.levels)
    out = torch.full((count, count + 1), math.inf, dtype=torch.float64)
    for i, here in enumerate(reference.levels):
        x, x0 = reference.x[i], reference.x0[i]
        eps = (x - float(here.alpha) * x0) / float(here.sigma)
        for j, there in enumerate(reference.levels[i + 1 :], start=i + 1):
            moved = float(there.alpha) * x0 + float(there.sigma) * eps
            scale = math.hypot(float(there.alpha), float(there.sigma))
            out[i, j] = _rms(moved - reference.x[j]) / scale
        out[i, count] = _rms(x0 - reference.end)
    return out if clean else out[:, :count]


def _rms(x: Tensor) -> float:
    return float(x.flatten(1).double().square().mean(1).sqrt().mean())


def shortest(errors: Tensor, count: int, *, clean: bool, growth: float = 1.0) -> list[int]:
    """The `count` noisy levels, the first among them, of the path of least sum to the last column.

    Args:
        errors: `(K, K)`, or with clean data `(K, K + 1)`, of the step from each level to each.
        count: Number of noisy levels.
        clean: Whether clean data follow them.
        growth: The errors of each step count so many times those of the step before.
    """
    steps = count if clean else count - 1
    best = torch.full((errors.shape[1],), math.inf, dtype=torch.float64)
    best[0] = 0
    before: list[Tensor] = []
    for step in range(steps):
        costs = best[: len(errors), None] + growth**step * errors
        best, choice = costs.min(0)
        before.append(choice)
    at, path = errors.shape[1] - 1, []
    for choice in reversed(before):
        at = int(choice[at])
        path.append(at)
    return [*reversed(path), *([] if clean else [errors.shape[1] - 1])]
