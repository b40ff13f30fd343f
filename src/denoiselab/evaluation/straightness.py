"""How straight the paths of a model's ODE are."""

from __future__ import annotations

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise, Prediction
from denoiselab.noise import Noise
from denoiselab.samplers import Sampler
from denoiselab.schedules import Level, Schedule


def straightness(
    denoise: Denoise, sampler: Sampler, schedule: Schedule, shape: tuple[int, ...], noise: Noise
) -> tuple[Tensor, Tensor]:
    """S of each path, and the squared length of its chord, `(B,)` float64 each, summed over dimensions.

    Any path is that of a rectified flow, y = x / (alpha + sigma) = (1 - s) x0 + s eps in the time
    s = sigma / (alpha + sigma), with the velocity v = eps - x0 of the predictions. Then S is the mean over s of
    |v - mean of v|^2: 0 for straight paths of constant speed, whose one step is exact. The means are by the trapezoidal
    rule over the levels of the calls, so that with DPM-Solver++ 2M the error falls as 1 / steps^2.

    Source: Liu et al., Flow Straight and Fast, arXiv 2209.03003, section 2.2.

    Args:
        denoise: A denoiser with its conditioning bound.
        sampler: One call of the denoiser a level: a multistep method, or DDIM without noise.
        schedule: The path from noise to data.
        shape: Of one sample.
        noise: Of the starts.

    Raises:
        ValueError: If the sampler adds noise, or calls the denoiser between its levels.
    """
    places, velocities = list[float](), list[Tensor]()

    def watched(x: Tensor, level: Level, /) -> Prediction:
        found = denoise(x, level)
        places.append(_place(level))
        velocities.append((found.eps - found.x0).flatten(1).double())
        return found

    name = type(sampler).__name__
    if sampler.stochastic or sampler.adaptive:
        raise ValueError(f"{name} adds noise or chooses its own steps; use dpmpp_2m.")
    sampler(watched, schedule, shape, noise)
    ends = [*places[1:], _place(sampler.grid(schedule)[-1])]
    steps = [here - there for here, there in zip(places, ends, strict=True)]
    if len(steps) < 2 or min(steps) < 0 or 0 in steps[:-1]:
        raise ValueError(f"{name} calls the denoiser once, between its levels or twice at one; use dpmpp_2m.")
    inner = torch.tensor(steps[:-1], dtype=torch.float64) / 2
    weights = torch.cat((inner, inner.new_tensor(steps[-1:]))) + torch.cat((inner.new_zeros(1), inner))
    v, weights = torch.stack(velocities), (weights / weights.sum())[:, None, None].to(velocities[0])
    mean = (weights * v).sum(0)
    return (weights * (v - mean).square()).sum((0, 2)), mean.square().sum(1)


def _place(level: Level) -> float:
    alpha, sigma = float(level.alpha), float(level.sigma)
    return sigma / (alpha + sigma)
