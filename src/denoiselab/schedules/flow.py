"""Interpolations between data and noise: straight lines and a quarter circle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoiselab.schedules.base import Schedule, check_range


class _ToNoise(Schedule):
    """A path that ends in pure noise at t = 1.

    Args:
        t_min: The cleanest time in training and sampling.
        t_max: The noisiest time. 1 is pure noise, where the output of eps and score networks does not determine x0.

    Raises:
        ValueError: Unless 0 < t_min < t_max <= 1.
    """

    def __init__(self, t_min: float = 1e-3, t_max: float = 1.0) -> None:
        super().__init__()
        check_range(t_min, t_max, 0, 1, closed=True)
        self.t_min, self.t_max = t_min, t_max


class Flow(_ToNoise):
    """Straight lines from data to noise, alpha = 1 - t, sigma = t: rectified flow.

    Source: Liu et al., arXiv 2209.03003, eq. 1; Lipman et al., Flow Matching, arXiv 2210.02747, example II.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_of(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(-lam)

    def normalise(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return alpha / (alpha + sigma), sigma / (alpha + sigma)


class Trigonometric(_ToNoise):
    """A quarter circle from data to noise, alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Source: Albergo and Vanden-Eijnden, Stochastic Interpolants, arXiv 2209.15571, eq. 5.
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def time_of(self, lam: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-lam))
