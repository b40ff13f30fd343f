"""Closed-form denoisers: exact predictions for known distributions, and the tests' ground truth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.schedules import Level
from denoiselab.schedules.base import like


class MixtureDenoiser:
    """The posterior mean under an isotropic Gaussian mixture, sum_k w_k N(mean_k, std_k^2 I).

    Args:
        means: `(K, D)` float64.
        stds: `(K,)`, standard deviations, positive.
        weights: `(K,)`, positive, summing to 1.
    """

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor) -> None:
        self.means, self.stds, self.weights = means, stds, weights

    def __call__(self, x: Tensor, level: Level, /) -> Prediction:
        """The exact (x0, eps) for `x` `(B, D)` at `level` (scalar or `(B,)`, sigma > 0)."""
        alpha = like(level.alpha, x).unsqueeze(-1)  # (B, 1, 1) or (1,)
        sigma = like(level.sigma, x).unsqueeze(-1)
        residual = x[:, None] - alpha * self.means  # (B, K, D)
        total = (alpha * self.stds[:, None]).square() + sigma.square()  # (B or 1, K, 1)
        variance = total[..., 0]  # (B or 1, K)
        log_density = -(residual.square().sum(-1) / variance + x.shape[1] * variance.log()) / 2
        responsibility = torch.softmax(self.weights.log() + log_density, dim=1)[..., None]
        gain = alpha * self.stds[:, None].square() / total
        x0 = (responsibility * (self.means + gain * residual)).sum(1)
        eps = (responsibility * (sigma / total * residual)).sum(1)
        return Prediction(x0, eps)

    def cdf(self, x: Tensor, level: Level) -> Tensor:
        """For D = 1: the marginal's distribution function at `x` `(N,)` and a scalar level.

        The probability-flow ODE preserves quantiles in one dimension, so inverting this is its exact solution.
        """
        scale = ((level.alpha * self.stds).square() + level.sigma.square()).sqrt()
        z = (x[:, None] - level.alpha * self.means[:, 0]) / scale
        return (self.weights * 0.5 * torch.erfc(-z / math.sqrt(2))).sum(1)
