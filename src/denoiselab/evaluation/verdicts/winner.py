"""The best of several scores looks better than it is; a second score on fresh samples does not."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Draws of all scores: the mean of their least is known to 0.006 of its spread.
_DRAWS = 20_000


def optimism_of_ties(covariance: Tensor, seed: int = 0) -> float:
    """How far the least of K scores lies below the truth in the mean, if the truth is the same for all.

    It is at most this where the truths differ: the chosen one's error is never below the least error. Of K independent
    errors of standard deviation tau it is 0.85, 1.74 and 2.16 tau for K = 3, 15 and 40; an error that all scores have
    in common adds nothing.

    Args:
        covariance: Of the errors of the scores, `(K, K)`; NaN for scores whose error has no estimate, left out.
        seed: Of the draws.
    """
    known = covariance.diagonal().isfinite()
    covariance = covariance[known][:, known].double()
    if len(covariance) < 2:
        return 0.0
    centre = torch.eye(len(covariance), dtype=torch.float64) - 1 / len(covariance)
    values, vectors = torch.linalg.eigh(centre @ covariance @ centre)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(_DRAWS, len(covariance), generator=generator, dtype=torch.float64)
    errors = normal @ (vectors * values.clamp_min(0).sqrt()).T
    return float((errors.amax(1) - errors.amin(1)).mean() / 2)  # by symmetry, with half the variance


class Confirmed(NamedTuple):
    """A score on the samples by which it was chosen, and on fresh ones.

    Attributes:
        scouted: The score by which it was chosen.
        fresh: On as many fresh samples: unbiased by the choice. It compares with other fresh scores alone.
        standard_error: Of `fresh`; None without an estimate.
        optimism: How much better the first looks: `fresh` less `scouted`, or the reverse where more is better.
        optimism_error: The standard error of `optimism`: the samples of both are independent.
    """

    scouted: float
    fresh: float
    standard_error: float | None
    optimism: float
    optimism_error: float | None


def confirmed(
    scouted: tuple[float, float | None], fresh: tuple[float, float | None], *, lower_is_better: bool = True
) -> Confirmed:
    """Compare the two scores, each a value and its standard error."""
    (before, error_before), (after, error_after) = scouted, fresh
    both = None if error_before is None or error_after is None else math.hypot(error_before, error_after)
    sign = 1 if lower_is_better else -1
    return Confirmed(before, after, error_after, sign * (after - before), both)
