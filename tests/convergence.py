"""How fast samplers converge: strong errors along the exact flow of a mixture, and weak ones on a Gaussian."""

from __future__ import annotations

import torch
from oracles import F64, flow_map, mixture

from denoiselab import samplers
from denoiselab.analytic import GaussianDenoiser
from denoiselab.noise import Noise
from denoiselab.samplers import Memory
from denoiselab.schedules import Level, VPLinear


def lam_uniform(schedule, steps):
    return schedule.at(torch.linspace(-2, 2, steps + 1, dtype=F64)).unbind()


def errors(sampler, grid, counts, to_clean=False):
    """RMS error at the last noisy level of grids `grid(schedule, count)`, the history of the first steps exact."""
    schedule, oracle = VPLinear(), mixture()
    start = torch.linspace(-1.5, 1.5, 9, dtype=F64)
    noise = Noise(0, torch.arange(len(start)))
    out = []
    for count in counts:
        levels = grid(schedule, count)
        seeded = sampler.terms - 1 if isinstance(sampler, samplers.multistep.Multistep) else 0
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


class Impulses(Noise):
    """Draw k is 1 for row k + 1 of the batch and 0 for the others: of a linear run, the rows tell all."""

    def like(self, x):
        self.draw += 1
        return (torch.arange(len(x)) == self.draw).to(x)[:, None]

    def between(self, x, here, there):
        return self.like(x)


def gaussian(mean=0.7, std=0.4):
    return GaussianDenoiser(torch.full((1,), mean, dtype=F64), torch.full((1, 1), std**2, dtype=F64))


def weak_errors(sampler, counts, grid=lam_uniform, mean=0.7, std=0.4):
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
        end = sampler.run(oracle, schedule, levels, x, Impulses(0, torch.arange(len(x))))[:, 0]
        answers = end[1:] - end[0]
        started = (first.alpha * std).square() + first.sigma.square()
        variance = answers[:-1].square().sum() + answers[-1].square() * started
        wanted = (last.alpha * std).square() + last.sigma.square()
        out.append(float((end[0] - last.alpha * mean).abs() + (variance - wanted).abs()))
    return out


def slope(counts, found):
    """The order that errors at these counts show."""
    n, e = (torch.tensor(values, dtype=F64).log() for values in (counts, found))
    return -float(((n - n.mean()) * (e - e.mean())).sum() / (n - n.mean()).square().sum())
