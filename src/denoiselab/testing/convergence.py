"""How fast samplers converge: strong errors along the exact flow of a mixture, and weak ones on a Gaussian."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from denoiselab.noise import Noise
from denoiselab.samplers import Memory, Sampler
from denoiselab.samplers.multistep import Multistep
from denoiselab.schedules import Level, Schedule, VPLinear
from denoiselab.testing.oracles import F64, flow_map, gaussian, interior_levels, mixture

# Levels, none of them an end, for a number of steps.
Grid = Callable[[Schedule, int], Sequence[Level]]


def errors(sampler: Sampler, grid: Grid, counts: Sequence[int], to_clean: bool = False) -> list[float]:
    """RMS error at the last noisy level of grids `grid(schedule, count)`, the history of the first steps exact."""
    schedule, oracle = VPLinear(), mixture()
    start = torch.linspace(-1.5, 1.5, 9, dtype=F64)
    noise = Noise(0, torch.arange(len(start)))
    out = []
    for count in counts:
        levels = grid(schedule, count)
        seeded = sampler.order - 1 if isinstance(sampler, Multistep) else 0
        memory = Memory()
        plan = sampler.plan(schedule, [*levels, Level.clean()])[:-1] if to_clean else sampler.plan(schedule, levels)
        for i, ((step, _), here) in enumerate(zip(plan, levels, strict=False)):
            if i <= seeded:
                x = flow_map(oracle, start, levels[0], here)[:, None]
                memory.x = flow_map(oracle, start, levels[0], levels[i - 1])[:, None] if i else None
            x = step(oracle, x, memory, noise)
        exact = flow_map(oracle, start, levels[0], levels[-1])
        out.append(float((x[:, 0] - exact).square().mean().sqrt()))
    return out


class _Impulses(Noise):
    """Draw k is 1 for row k + 1 of the batch and 0 for the others: the rows of a linear run are its coefficients."""

    def like(self, x: Tensor) -> Tensor:
        self.draw += 1
        return (torch.arange(len(x)) == self.draw).to(x)[:, None]

    def between(self, x: Tensor, here: Level, there: Level) -> Tensor:
        return self.like(x)


def weak_errors(
    sampler: Sampler, counts: Sequence[int], grid: Grid = interior_levels, mean: float = 0.7, std: float = 0.4
) -> list[float]:
    """Errors of mean and variance of what a Gaussian's exact denoiser makes of its own noisy marginal.

    Every step is linear in x and its draws, so both are known without a sample.
    """
    schedule = VPLinear()
    oracle = gaussian(mean, std)
    out = []
    for count in counts:
        levels = grid(schedule, count)
        first, last = levels[0], levels[-1]
        draws = (len(levels) - 1) * sampler.calls_per_step
        # Row 0 has neither; the last row starts one away from the mean.
        x = torch.full((draws + 2, 1), float(first.alpha) * mean, dtype=F64)
        x[-1] += 1
        end = sampler.run(oracle, schedule, levels, x, _Impulses(0, torch.arange(len(x))))[:, 0]
        answers = end[1:] - end[0]
        started = (first.alpha * std).square() + first.sigma.square()
        variance = answers[:-1].square().sum() + answers[-1].square() * started
        wanted = (last.alpha * std).square() + last.sigma.square()
        out.append(float((end[0] - last.alpha * mean).abs() + (variance - wanted).abs()))
    return out


def slope(counts: Sequence[int], found: Sequence[float]) -> float:
    """The order that errors at these counts show."""
    n, e = (torch.tensor(values, dtype=F64).log() for values in (counts, found))
    return -float(((n - n.mean()) * (e - e.mean())).sum() / (n - n.mean()).square().sum())
