"""Ground truth for the tests: that of `denoiselab.testing`, and what needs more than torch."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from denoiselab.analytic import MixtureDenoiser
from denoiselab.denoiser import Prediction
from denoiselab.samplers import Sampler
from denoiselab.schedules import Level, Schedule
from denoiselab.testing.oracles import F64, draws, flow_map, interior_levels, measured, mixture, unbounded

__all__ = [
    "F64",
    "Digits",
    "GeometricVE",
    "draws",
    "flow_map",
    "interior_levels",
    "measured",
    "mixture",
    "unbounded",
    "variant",
]


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


def variant(sampler: Sampler, **options: Any) -> Sampler:
    """The sampler with those of the options that it has."""
    own = {field.name for field in dataclasses.fields(sampler) if field.init}
    return dataclasses.replace(sampler, **{name: value for name, value in options.items() if name in own})


class GeometricVE(Schedule):
    """A second path for the tests: alpha = 1, sigma = 0.01 * 5000^t; it has no closed inverse."""

    t_min, t_max = 0.0, 1.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return 0.01 * 5000.0**t
