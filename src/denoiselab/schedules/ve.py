"""Variance-exploding schedules: alpha = 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoiselab.schedules.base import Schedule


class _Exploding(Schedule):
    """alpha = 1."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def normalise(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(alpha), sigma / alpha


class VEGeometric(_Exploding):
    """sigma(t) = sigma_min (sigma_max / sigma_min)^t on [0, 1], the continuous limit of NCSN's levels.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 31.

    Args:
        sigma_min: Noise at t = 0.
        sigma_max: Noise at t = 1.

    Raises:
        ValueError: Unless 0 < sigma_min < sigma_max.
    """

    t_min, t_max = 0.0, 1.0

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        super().__init__()
        check_sigmas(sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self._rate = math.log(sigma_max / sigma_min)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(self._rate * t)

    def time_of(self, lam: Tensor) -> Tensor:
        return (-lam - math.log(self.sigma_min)) / self._rate


class EDM(_Exploding):
    """sigma(t) = t: time is the noise itself.

    Source: Karras et al., EDM, arXiv 2206.00364, table 1.

    Args:
        sigma_min: Noise scale at the cleanest level.
        sigma_max: Noise scale at the noisiest level.

    Raises:
        ValueError: Unless 0 < sigma_min < sigma_max.
    """

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        super().__init__()
        check_sigmas(sigma_min, sigma_max)
        self.t_min, self.t_max = sigma_min, sigma_max

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def time_of(self, lam: Tensor) -> Tensor:
        return torch.exp(-lam)

    def part_way(self, fraction: float, top: float) -> float:
        """In equal steps of the flow's time sigma / (1 + sigma), as most of the range of sigma is nearly pure noise."""
        low, high = (sigma / (1 + sigma) for sigma in (self.t_min, top))
        u = low + fraction * (high - low)
        return u / (1 - u)


def check_sigmas(sigma_min: float, sigma_max: float) -> None:
    """Check a range of noise scales.

    Raises:
        ValueError: Unless 0 < sigma_min < sigma_max, both finite.
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"sigma_min={sigma_min} and sigma_max={sigma_max}: they must be finite and satisfy "
            "0 < sigma_min < sigma_max."
        )
