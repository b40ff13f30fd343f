"""The error of a sampler apart from that of the model: distances to the samples of a fine solution of the same ODE.

Sample i of a cell and sample i of a fine run start from the same x_T, so without error of the solver they are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# An order is fitted to distances of at least this multiple of the distance between the fine runs.
RESOLVED = 3.0


class Estimated(NamedTuple):
    """A number and its standard error.

    Attributes:
        value: The number.
        standard_error: Of drawing the samples; None if it has no estimate.
    """

    value: float
    standard_error: float | None


class Split(NamedTuple):
    """The two parts of the score of a cell.

    Attributes:
        model: Least and greatest score of the fine runs.
        solver: Least and greatest difference of the cell's score to theirs; it can be negative.
        standard_error: Of the difference.
        resolved: Whether the difference to every fine run has one sign and exceeds two standard errors and the range
            of `model`.
    """

    model: tuple[float, float]
    solver: tuple[float, float]
    standard_error: float | None
    resolved: bool


def squares(a: Tensor, f: Tensor) -> Tensor:
    """Squared distances `(n,)` float64 of features a `(n, D)` and f `(n, D)` of the same indices."""
    return (a.double() - f.double()).square().sum(1)


def distance(squared: Tensor) -> Estimated:
    """The root of the mean of squared distances `(n,)`, with the standard error sd / (2 rho sqrt n) (delta method)."""
    rho = float(squared.mean().sqrt())
    if len(squared) < 2 or rho == 0:
        return Estimated(rho, None if len(squared) < 2 else 0.0)
    return Estimated(rho, float(squared.std()) / (2 * rho * math.sqrt(len(squared))))


def fitted_order(squared: Sequence[Tensor], steps: Sequence[int], apart: float = 0.0) -> Estimated | None:
    """The order p of rho ~ steps^-p, by least squares of log rho on log steps; None for fewer than two distances.

    Its standard error includes the correlation of the cells, whose samples have the same indices: it is that of the
    mean of the influences -sum_k w_k (d_ki - rho_k^2) / (2 rho_k^2), with w_k the weights of the fit.

    Args:
        squared: Squared distances `(n,)` of each cell.
        steps: Of each cell.
        apart: Distance between the fine runs; cells within `RESOLVED` times it are left out, as what they measure is
            the error of the fine run.
    """
    kept = [(d.double(), s) for d, s in zip(squared, steps, strict=True) if distance(d).value > RESOLVED * apart]
    if len({s for _, s in kept}) < 2:
        return None
    x = torch.tensor([math.log(s) for _, s in kept], dtype=torch.float64)
    centred = x - x.mean()
    weights = centred / centred.square().sum()
    stacked = torch.stack([d for d, _ in kept])
    mean = stacked.mean(1, keepdim=True)
    order = -float(weights @ mean[:, 0].log()) / 2
    influence = -(weights[:, None] * (stacked / mean - 1)).sum(0) / 2
    n = len(influence)
    return Estimated(order, float(influence.std()) / math.sqrt(n) if n > 1 else None)


def worst(squared: Tensor, count: int = 16) -> Tensor:
    """Indices `(k,)` of the largest squared distances, the largest first; k is `count` or n."""
    return squared.topk(min(count, len(squared))).indices


def frechet_bound(rho: float, frechet: float) -> float:
    """The most by which the Fréchet distances to a reference of two sets of features at distance rho differ.

    Fréchet's is the square of a metric, the Bures metric, and that of two sets is at most rho, as pairing the samples
    by index is one way to transport them: |sqrt FD(A) - sqrt FD(F)| <= sqrt FD(A, F) <= rho, for moments with the
    divisor n.

    Args:
        rho: Root mean squared distance of the samples of one index.
        frechet: The Fréchet distance of one set to the reference.
    """
    return rho * (2 * math.sqrt(max(frechet, 0.0)) + rho)


def interpolated(lam: Tensor, states: Tensor, at: Tensor) -> Tensor:
    """States `(m, *)` of a path at half log-SNRs `at` `(m,)`, from those at knots, by cubics through four knots.

    Args:
        lam: The knots' half log-SNRs `(k,)`, rising, k >= 4.
        states: At the knots, `(k, *)`.
        at: From the first to the last knot.
    """
    first = (torch.searchsorted(lam, at) - 2).clamp(0, len(lam) - 4)
    index = first[:, None] + torch.arange(4)
    nodes, weights = lam[index], torch.ones(len(at), 4, dtype=lam.dtype)
    for i in range(4):
        for j in range(4):
            if i != j:
                weights[:, i] *= (at - nodes[:, j]) / (nodes[:, i] - nodes[:, j])
    return torch.einsum("mk,mk...->m...", weights.to(states), states[index])


def split(score: float, fine: Sequence[float], standard_error: float | None) -> Split:
    """The parts of a score, from those of the fine runs.

    Args:
        score: Of the cell.
        fine: Of the fine runs, of as many samples.
        standard_error: The largest of those of the differences; None if there is no estimate.
    """
    model, solver = (min(fine), max(fine)), (score - max(fine), score - min(fine))
    noise = 0.0 if standard_error is None else 2 * standard_error
    least = min(map(abs, solver)) if solver[0] * solver[1] > 0 else 0.0
    return Split(model, solver, standard_error, least > max(noise, model[1] - model[0]))


def advice(parts: Split) -> str:
    """`train longer` or `take more steps`, whichever part of a score with optimum 0 is larger."""
    more_steps = parts.resolved and parts.solver[0] > parts.model[1]
    return "take more steps" if more_steps else "train longer"
