"""Quantiles of the Beta distribution, which torch does not have."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


@functools.lru_cache
def beta_quantiles(count: int, a: float, b: float) -> Tensor:
    """`count` equal quantiles of Beta(a, b), falling from 1 to 0, float64; of shapes from 0.1 to 1000.

    By bisection on its continued fraction. Source: Abramowitz and Stegun, 26.5.8.
    Below (a + 1) / (a + b + 2), and from the other end above it, the fraction converges in some sqrt(max(a, b)) terms.
    """
    p = 1 - torch.linspace(0, 1, count, dtype=torch.float64)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    m = torch.arange(1, 20 + int(4 * math.sqrt(max(a, b))), dtype=torch.float64)[:, None]

    def terms(a: Tensor, b: Tensor) -> Tensor:
        """The fraction's numerators over x, `(M, N)`, its bottom first."""
        even = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m - 1) * (a + b + m - 1) / ((a + 2 * m - 2) * (a + 2 * m - 1))
        return torch.stack((odd, even), 1).flatten(0, 1).flip(0)

    def tail(x: Tensor, a: Tensor, b: Tensor, numerators: Tensor) -> Tensor:
        """The incomplete beta function of x `(N,)`; it converges fast below (a + 1) / (a + b + 2)."""
        fraction = one = torch.ones_like(x)
        for numerator in (numerators * x).unbind():
            fraction = torch.addcdiv(one, numerator, fraction)
        return (a * x.log() + b * torch.log1p(-x) - log_beta).exp() / (a * fraction)

    split = torch.tensor([(a + 1) / (a + b + 2)], dtype=torch.float64)
    here, there = torch.full_like(p, a), torch.full_like(p, b)
    above = p > tail(split, here[:1], there[:1], terms(here[:1], there[:1]))
    # Above the split it is that of the other shape, from the other end.
    here, there = torch.where(above, there, here), torch.where(above, here, there)
    wanted, numerators = torch.where(above, 1 - p, p), terms(here, there)
    low, high = torch.zeros_like(p), torch.where(above, 1 - split, split)
    for _ in range(64):
        x = (low + high) / 2
        short = tail(x, here, there, numerators) < wanted
        low, high = torch.where(short, x, low), torch.where(short, high, x)
    x = torch.where(wanted > 0, (low + high) / 2, 0.0)
    return torch.where(above, 1 - x, x)
