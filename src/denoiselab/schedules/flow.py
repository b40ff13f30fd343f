"""Interpolations between data and noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from denoiselab.schedules.base import Schedule, check_range


class Flow(Schedule):
    """Straight lines from data to noise, alpha = 1 - t, sigma = t: rectified flow.

    Source: Liu et al., arXiv 2209.03003, eq. 1; Lipman et al., Flow Matching, arXiv 2210.02747, example II.

    Args:
        t_min: Where training and sampling stop short of the clean image.
        t_max: 1 is pure noise, where eps and score networks have nothing to say about x0.

    Raises:
        ValueError: Unless 0 < t_min < t_max <= 1.
    """

    def __init__(self, t_min: float = 1e-3, t_max: float = 1.0) -> None:
        super().__init__()
        check_range(t_min, t_max, 0, 1, closed=True)
        self.t_min, self.t_max = t_min, t_max

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at times `t`."""
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at times `t`: t."""
        return t

    def time_of(self, lam: Tensor) -> Tensor:
        """The time whose half log-SNR is `lam`."""
        return torch.sigmoid(-lam)

    def normalise(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The pair divided by its sum."""
        return alpha / (alpha + sigma), sigma / (alpha + sigma)


class Trigonometric(Schedule):
    """A quarter circle from data to noise, alpha = cos(pi t / 2), sigma = sin(pi t / 2).

    Source: Albergo and Vanden-Eijnden, Stochastic Interpolants, arXiv 2209.15571, eq. 5.

    Args:
        t_min: Where training and sampling stop short of the clean image.
        t_max: As in `Flow`.

    Raises:
        ValueError: Unless 0 < t_min < t_max <= 1.
    """

    def __init__(self, t_min: float = 1e-3, t_max: float = 1.0) -> None:
        super().__init__()
        check_range(t_min, t_max, 0, 1, closed=True)
        self.t_min, self.t_max = t_min, t_max

    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale at times `t`; exactly 0 at t = 1."""
        return torch.sin(math.pi / 2 * (1 - t))

    def sigma(self, t: Tensor) -> Tensor:
        """Noise scale at times `t`."""
        return torch.sin(math.pi / 2 * t)

    def time_of(self, lam: Tensor) -> Tensor:
        """The time whose half log-SNR is `lam`."""
        return 2 / math.pi * torch.atan(torch.exp(-lam))
