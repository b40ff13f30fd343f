"""Ground truth: a 1-D mixture with its exact flow map, a Gaussian, and levels away from the ends of the noise axis."""

from __future__ import annotations

import torch
from torch import Tensor

from denoiselab.analytic import GaussianDenoiser, MixtureDenoiser
from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers import Sampler
from denoiselab.schedules import Level, Schedule, VPLinear

F64 = torch.float64


def mixture() -> MixtureDenoiser:
    """Three components in one dimension, smooth and far from Gaussian."""
    return MixtureDenoiser(
        means=torch.tensor([[-1.0], [0.2], [1.1]], dtype=F64),
        stds=torch.tensor([0.3, 0.2, 0.35], dtype=F64),
        weights=torch.tensor([0.5, 0.2, 0.3], dtype=F64),
    )


def gaussian(mean: float = 0.7, std: float = 0.4) -> GaussianDenoiser:
    """A Gaussian in one dimension."""
    return GaussianDenoiser(torch.full((1,), mean, dtype=F64), torch.full((1, 1), std**2, dtype=F64))


def draws(oracle: MixtureDenoiser, n: int, seed: int = 0) -> Tensor:
    """Exact draws `(n, D)`."""
    noise = Noise(seed, torch.arange(n) + 10**9)
    which = torch.bucketize(noise.uniform(), oracle.weights.cumsum(0)).clamp(max=len(oracle.weights) - 1)
    return oracle.means[which] + oracle.stds[which, None] * noise.normal(oracle.means.shape[1:], F64)


def unbounded(sampler: Sampler) -> Sampler:
    """The sampler, with the options that assume data in [-1, 1] set to None."""
    for option in ("threshold", "half_range", "clip_pixels"):
        if hasattr(sampler, option):
            setattr(sampler, option, None)
    return sampler


def measured(sampler: Sampler, oracle: Denoise, x0: Tensor) -> Sampler:
    """The sampler, with the moments of an oracle on data `(N, *)` if it declares a measurement."""
    if sampler.measurement is not None:
        sampler.measurement.moments = sampler.measurement.measure(
            lambda x, level, rows: oracle(x, level),
            VPLinear(),
            x0,
            Noise(5, torch.arange(len(x0))),
            threshold=sampler.threshold,
            first_lam=sampler.spacing.first_lam,
        )
    return sampler


def flow_map(oracle: MixtureDenoiser, x: Tensor, here: Level, there: Level) -> Tensor:
    """Where the probability-flow ODE takes `x` `(N,)`: the point of the same quantile, by bisection."""
    quantile = oracle.cdf(x, here)
    low, high = torch.full_like(x, -50.0), torch.full_like(x, 50.0)
    for _ in range(100):
        middle = (low + high) / 2
        below = oracle.cdf(middle, there) < quantile
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def interior_levels(schedule: Schedule, steps: int, first: float = -2.0, last: float = 2.0) -> list[Level]:
    """`steps + 1` levels uniform in half log-SNR, away from both ends."""
    return schedule.at(torch.linspace(first, last, steps + 1, dtype=F64)).unbind()
