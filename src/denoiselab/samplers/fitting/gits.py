"""GITS: grids on which Euler's steps leave the chord of a trajectory as little as the fine run does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoiselab.samplers.fitting.grids import GridSearch, Problem, Reference
from denoiselab.samplers.fitting.local_errors import shortest
from denoiselab.schedules import Level


class GITS(GridSearch):
    """The grid of the least sum of deviations, by dynamic programming over the levels of the reference.

    The deviation of a point is its distance from the straight line from x_T to the end, in x / alpha. A step costs that
    of its end by Euler's rule from the reference's state, less that of the reference there, and each step counts
    `gamma` times the one before. Like `LocalErrors` it is blind to the sampler's order; of both, the usual grids and
    the sampler's own the nearest is chosen.

    Source: Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, arXiv 2405.11326, section 4; cost
    and gamma as in the released code (metric `dev`, coefficient 1.15), which takes 61 levels of Karras' grid.

    Args:
        num_samples: As in `GridSearch`.
        fine: As in `GridSearch`.
        seed: As in `GridSearch`.
        gamma: Factor on the cost of a step relative to the one before.

    Raises:
        ValueError: If gamma is not positive.
    """

    name = "gits"

    def __init__(self, num_samples: int = 64, fine: int = 128, seed: int = 0, gamma: float = 1.15) -> None:
        super().__init__(num_samples, fine, seed)
        if not gamma > 0:
            raise ValueError(f"gamma={gamma}: it must be positive.")
        self.gamma = gamma

    def search(self, problem: Problem) -> list[Level]:
        costs = step_costs(problem.reference, clean=problem.clean)
        path = shortest(costs, len(problem.known[0].levels), clean=problem.clean, growth=self.gamma)
        return [problem.reference.levels[i] for i in path]


def step_costs(reference: Reference, *, clean: bool) -> Tensor:
    """The cost of the step from each level to each later one, `(K, K)` or with clean data `(K, K + 1)`, float64."""
    levels, end = reference.levels, reference.end if clean else reference.end / float(reference.levels[-1].alpha)
    end = end.flatten(1).double()
    first = levels[0]  # of pure noise x / alpha is infinite, and the line's direction is not
    chord = (reference.x[0].flatten(1).double() - float(first.alpha) * end) / float(first.sigma)
    chord = chord / chord.norm(dim=1, keepdim=True)

    def deviation(y: Tensor) -> float:
        off = y - end
        return float((off - (off * chord).sum(1, keepdim=True) * chord).norm(dim=1).mean())

    count = len(levels)
    own = [
        0.0,
        *(
            deviation(x.flatten(1).double() / float(at.alpha))
            for x, at in zip(reference.x[1:], levels[1:], strict=True)
        ),
    ]
    out = torch.full((count, count + 1), math.inf, dtype=torch.float64)
    for i, here in enumerate(levels):
        x, x0 = (one[i].flatten(1).double() for one in (reference.x, reference.x0))
        eps = (x - float(here.alpha) * x0) / float(here.sigma)
        for j in range(i + 1, count):
            out[i, j] = deviation(x0 + float(levels[j].rho) * eps) - (own[j] if clean or j < count - 1 else 0.0)
        out[i, count] = deviation(x0)
    return out if clean else out[:, :count]
