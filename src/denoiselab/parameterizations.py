"""What a network's output means, as two numbers: out = a x0 + b eps.

With x_t = alpha x0 + sigma eps this is a 2x2 system; `det = alpha b - sigma a` says how well it is conditioned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from denoiselab.schedules import Level

Coefficients = tuple[Tensor, Tensor]
Parameterization = Callable[[Level], Coefficients]


def eps(level: Level) -> Coefficients:
    """The network predicts the noise (Ho et al., DDPM, arXiv 2006.11239, eq. 11); singular at alpha = 0."""
    return torch.zeros_like(level.alpha), torch.ones_like(level.alpha)


def x0(level: Level) -> Coefficients:
    """The network predicts the clean image; singular at sigma = 0."""
    return torch.ones_like(level.alpha), torch.zeros_like(level.alpha)


def v(level: Level) -> Coefficients:
    """The network predicts v = alpha eps - sigma x0 (Salimans and Ho, arXiv 2202.00512, section 4)."""
    return -level.sigma, level.alpha


def determinant(level: Level, coefficients: Coefficients) -> Tensor:
    """The determinant of (x0, eps) -> (x_t, out): alpha b - sigma a, shaped like the level."""
    a, b = coefficients
    return level.alpha * b - level.sigma * a
