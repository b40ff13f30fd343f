"""Ground truth for the tests: a 1-D mixture with its exact flow map, and levels inside the noise axis."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from denoiselab.analytic import MixtureDenoiser
from denoiselab.denoiser import Denoise, Prediction
from denoiselab.noise import Noise
from denoiselab.samplers import Analytic, Moments, Sampler
from denoiselab.schedules import Level, Schedule, VPLinear

F64 = torch.float64


def mixture() -> MixtureDenoiser:
    """Three components in one dimension, smooth and far from Gaussian."""
    return MixtureDenoiser(
        means=torch.tensor([[-1.0], [0.2], [1.1]], dtype=F64),
        stds=torch.tensor([0.3, 0.2, 0.35], dtype=F64),
        weights=torch.tensor([0.5, 0.2, 0.3], dtype=F64),
    )


class Digits(MixtureDenoiser):
    """The mixture around scikit-learn's digits, std 0.05.

    Equal stds and weights: |x|^2 leaves the softmax, and what remains are two matrix products.
    """

    def __init__(self) -> None:
        means = torch.from_numpy(load_digits().data).to(F64) / 8 - 1
        super().__init__(means, torch.full((len(means),), 0.05, dtype=F64), torch.full((len(means),), 1 / len(means)))
        self.half, self.across = means.square().sum(1) / 2, means.T.contiguous()

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        alpha, sigma, y = float(level.alpha), float(level.sigma), x.double()
        total = (0.05 * alpha) ** 2 + sigma**2
        logits = torch.addmm(self.half, y, self.across, beta=-(alpha**2) / total, alpha=alpha / total)
        mean = torch.softmax(logits, 1) @ self.means
        residual = y - alpha * mean
        return Prediction((mean + alpha * 0.05**2 / total * residual).to(x), (sigma / total * residual).to(x))


def draws(oracle: MixtureDenoiser, n: int, seed: int = 0) -> Tensor:
    """Exact draws `(n, D)`."""
    noise = Noise(seed, torch.arange(n) + 10**9)
    which = torch.bucketize(noise.uniform(), oracle.weights.cumsum(0)).clamp(max=len(oracle.weights) - 1)
    return oracle.means[which] + oracle.stds[which, None] * noise.normal(oracle.means.shape[1:], F64)


def unbounded(sampler: Sampler) -> Sampler:
    """The sampler for data that are no pixels: nothing is clipped."""
    sampler.threshold = None
    if isinstance(sampler, Analytic):
        sampler.half_range = sampler.clip_pixels = None
    return sampler


def measured(sampler: Analytic, oracle: Denoise, x0: Tensor) -> Moments:
    """The moments of an oracle on data `(N, *)`."""
    return sampler.measure(lambda x, level, rows: oracle(x, level), VPLinear(), x0, Noise(5, torch.arange(len(x0))))


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


class GeometricVE(Schedule):
    """A second path for the tests: alpha = 1, sigma = 0.01 * 5000^t; it has no closed inverse."""

    t_min, t_max = 0.0, 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return 0.01 * 5000.0**t
