"""Data to x_T by the inverse of each step, where `Sampler.encode` takes steps of the same rule the other way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Sampler, Step, jump
from denoiselab.samplers.observers import Moment, OnStep, Watch
from denoiselab.schedules import Level, Schedule
from denoiselab.schedules.base import like


class Inverted(NamedTuple):
    """What data were encoded to.

    Attributes:
        x: x_T `(B, *)`.
        residual: `(B,)`, the largest rms over the steps of what a step from the last but one iterate misses its end by,
            in units of sqrt(alpha^2 + sigma^2); NaN without iterations.
    """

    x: Tensor
    residual: Tensor


def check_fixed_point(sampler: Sampler, iterations: int) -> None:
    """Check that a sampler has steps that can be inverted one by one.

    Raises:
        ValueError: If it has none.
    """
    if iterations and not isinstance(sampler, OneStep):
        raise ValueError(
            f"fixed_point={iterations}: {type(sampler).__name__} is no single-step sampler, so its steps have no "
            "inverse; use 0, or ddim"
        )


@torch.no_grad()
def invert(
    sampler: Sampler,
    denoise: Denoise,
    schedule: Schedule,
    x0: Tensor,
    iterations: int,
    *,
    on_step: OnStep | None = None,
) -> Inverted:
    """The x_T of x0 `(B, *)` that a deterministic sampler returns to x0, with each of its steps inverted.

    The inverse of a step D from t to s solves x_s = D(x_t) by x_t += (x_s - D(x_t)) / keep, with keep = alpha_s /
    alpha_t, from where the rule's own step from s to t ends; of DDIM it is x_s = keep x_t + gain eps(x_t, t). The step
    to clean data is inverted too, from alpha x0; without it no number of iterations returns x0. Each iteration is one
    more step of calls. A sample whose residual grows keeps its iterate before, since the iteration need not contract,
    as with few steps or much guidance.

    Source: Pan et al., Effective Real Image Editing with Accelerated Iterative Diffusion Inversion, arXiv 2309.04907,
    section 3; the inverse of the last step is our addition.

    Args:
        sampler: The rule; with 0 iterations of any kind that encodes, and the result is that of `Sampler.encode`.
        denoise: A denoiser with its conditioning bound.
        schedule: The path from noise to data.
        x0: Data.
        iterations: Of each step.
        on_step: Called after each step; an exception stops the run.

    Raises:
        ValueError: If the sampler cannot encode, or has no single steps to invert.
    """
    check_fixed_point(sampler, iterations)
    if not iterations:
        x = sampler.encode(denoise, schedule, x0, on_step=on_step)
        return Inverted(x, torch.full((len(x0),), torch.nan, device=x0.device))
    assert isinstance(sampler, OneStep)
    levels = sampler.backwards(schedule)
    watched = Watch(denoise if sampler.threshold is None else sampler.threshold.wrap(denoise), None)
    nothing = Noise(0, torch.arange(len(x0), device=x0.device))
    x, worst = x0 * float(levels[0].alpha), torch.zeros(len(x0), dtype=torch.float64, device=x0.device)

    def made(step: Step) -> Callable[[Tensor], Tensor]:
        return lambda x: step(watched, x, Memory(), nothing)

    if sampler.grid(schedule)[-1].sigma == 0:
        clean = Level.clean()
        step = made(sampler.land(schedule, levels[0], clean).step)
        x, residual = _solved(step, x0, x, levels[0], clean, iterations)
        worst = torch.maximum(worst, residual)
    for number, (low, high) in enumerate(pairwise(levels), start=1):
        up, down = (_step(sampler, schedule, *ends) for ends in ((low, high), (high, low)))
        x, residual = _solved(made(down), x, made(up)(x), high, low, iterations)
        worst = torch.maximum(worst, residual)
        if on_step is not None:
            on_step(Moment(number, len(levels) - 1, high, x, watched.last.x0))
    return Inverted(x, worst)


def _step(sampler: OneStep, schedule: Schedule, here: Level, there: Level) -> Step:
    if here.is_end or there.is_end:
        return jump(here, there).step
    return sampler.between(schedule, here, there)


def _solved(
    step: Callable[[Tensor], Tensor], target: Tensor, x: Tensor, here: Level, there: Level, iterations: int
) -> tuple[Tensor, Tensor]:
    """The x that `step` takes from `here` to `target` at `there`, from a first guess; and the last known residual."""
    keep = float(there.alpha / here.alpha) if here.alpha > 0 else float(there.sigma / here.sigma)
    unit = float(torch.hypot(there.alpha, there.sigma))
    best, least = x, torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    going = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(iterations):
        missing = target - step(x)
        size = missing.flatten(1).double().square().mean(1).sqrt() / unit
        going = going & (size < least)
        best, least = torch.where(like(going, x).bool(), x, best), torch.where(going, size, least)
        x = torch.where(like(going, x).bool(), x + missing / keep, best)
    return x, least
