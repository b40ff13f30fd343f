"""Moving averages whose width is a fraction of the training so far, and others that are reconstructed from them.

Source: Karras et al., EDM2, arXiv 2312.02696, section 3 and appendix C. The average at `t` images seen weights the
parameters at tau by p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1); its width sigma_rel is the standard deviation of
tau / t.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# The width of the plain mean, gamma = 0.
WIDEST = 12**-0.5


def exponent(sigma_rel: float) -> float:
    """The gamma of a width: the largest root of g^3 + 7 g^2 + (16 - s) g + 12 - s, s = sigma_rel^-2 (equation 126).

    Raises:
        ValueError: If the width is not above 0 and at most 12^-1/2.
    """
    if not 0 < sigma_rel <= WIDEST:
        raise ValueError(f"sigma_rel={sigma_rel}: it must be above 0 and at most {WIDEST:.4f}, the plain mean.")
    inverse = sigma_rel**-2
    radius = math.sqrt((inverse + 1 / 3) / 3)  # of the depressed cubic in g + 7/3, which has three real roots
    cosine = -(1 / 27 + 2 * inverse / 3) / radius**3
    return 2 * radius * math.cos(math.acos(max(-1.0, cosine)) / 3) - 7 / 3


class PowerFunction:
    """An average of relative width `sigma_rel`, whatever the length of training.

    decay = (1 - images in the step / images seen)^(gamma + 1), equation 127.

    Args:
        sigma_rel: Width as a fraction of the images seen, above 0 and at most 12^-1/2, the plain mean.

    Raises:
        ValueError: If it is not.
    """

    def __init__(self, sigma_rel: float = 0.1) -> None:
        self.sigma_rel, self.gamma = sigma_rel, exponent(sigma_rel)

    def decay(self, images_seen: int, images: int) -> float:
        return float((1 - images / images_seen) ** (self.gamma + 1))


class Term(NamedTuple):
    """A stored average.

    Attributes:
        images: Seen when it was stored.
        sigma_rel: Its width.
    """

    images: int
    sigma_rel: float


class Mix(NamedTuple):
    """An average as a sum of stored ones.

    Attributes:
        coefficients: `(K,)` float64, of sum 1.
        error: L2 distance of the sum's profile from the wanted one, as a fraction of the latter's norm.
    """

    coefficients: Tensor
    error: float


def mix(terms: Sequence[Term], images: int, sigma_rel: float) -> Mix:
    """The least-squares approximation of an average by stored ones (algorithm 3).

    Args:
        terms: The stored ones, all different.
        images: Seen, where the average is wanted.
        sigma_rel: Its width.

    Raises:
        ValueError: If the width is out of range.
    """
    times = torch.tensor([term.images / images for term in terms], dtype=torch.float64)
    gammas = torch.tensor([exponent(term.sigma_rel) for term in terms], dtype=torch.float64)
    time, gamma = torch.ones(1, dtype=torch.float64), torch.tensor([exponent(sigma_rel)], dtype=torch.float64)
    products = _inner_products(times, gammas, times, gammas)
    wanted = _inner_products(times, gammas, time, gamma).squeeze(1)
    coefficients = torch.linalg.solve(products, wanted)
    coefficients = coefficients / coefficients.sum()
    norm = float(_inner_products(time, gamma, time, gamma))
    squared = coefficients @ products @ coefficients - 2 * coefficients @ wanted + norm
    return Mix(coefficients, math.sqrt(max(0.0, float(squared)) / norm))


def _inner_products(t_a: Tensor, gamma_a: Tensor, t_b: Tensor, gamma_b: Tensor) -> Tensor:
    """`(A, B)`, the integral of p_a p_b over tau, for profiles `(A,)` and `(B,)` (equation 151)."""
    t_a, gamma_a = t_a.unsqueeze(1), gamma_a.unsqueeze(1)
    power = torch.where(t_a < t_b, gamma_b, -gamma_a)
    return (gamma_a + 1) * (gamma_b + 1) * (t_a / t_b) ** power / ((gamma_a + gamma_b + 1) * torch.maximum(t_a, t_b))
