"""Standard errors of statistics of n samples, from the influence of each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import Influences
from denoiselab.evaluation.verdicts import paired

# Samples whose second influence is computed.
INFLUENCES = 1024

# Samples whose influence is kept, from which a difference of scores has a standard error that is 2 to 4 % off.
_KEPT = 2048

# Double differences that are kept of a second influence that is computed of all pairs; a cubic kernel's vary much.
_DIFFERENCES = 8192


def standard_error(influence: Tensor, n: int, strata: int = 1) -> float | None:
    """The standard error of a mean over n samples; None if a stratum has fewer than 2 influences.

    Strata are drawn in proportion, so differences between them add no variance. Source: Cochran, Sampling Techniques,
    3rd ed., eq. 5.8.

    Args:
        influence: Those of the first m of the n samples, `(m,)`.
        n: Number of samples.
        strata: Sample i is drawn from stratum i mod strata.
    """
    if len(influence) < 2 * strata:
        return None
    deviations, weight = paired.within_strata(influence, strata)
    return float(((deviations.square() * weight).mean() / n).sqrt())


def influences(
    first: Tensor, n: int, strata: int = 1, second: Tensor | None = None, blocks: Sequence[float] = ()
) -> Influences:
    """The influences that are kept of a score.

    Args:
        first: Those of the first samples, `(m,)`.
        n: Number of samples.
        strata: Sample i is drawn from stratum i mod strata.
        second: Second influences of the first samples on each other, `(k, k)`; None for a mean over samples.
        blocks: As of `Influences`.
    """
    differences = torch.empty(0) if second is None else paired.double_differences(second, strata, _DIFFERENCES)
    kept = first[: max(_KEPT, 2 * strata)]
    return Influences(kept.float(), differences.float(), n, strata, torch.tensor(blocks, dtype=torch.float32))


def second_order(differences: Tensor, n: int) -> float:
    """The variance that the second order adds to a statistic of n samples; 0 without any difference.

    A quadratic form <d, H d> / 2 of the mean d of n draws of covariance S has the variance tr (H S)^2 / 2 n^2 about its
    stationary point, and twice that in its infinitesimal jackknife. With the second influence phi of two samples, this
    is E phi^2 / 2 n^2 but for terms of one of them alone. Those terms, and what strata differ in, cancel in the double
    difference phi(a, b) - phi(a, b') - phi(a', b) + phi(a', b'), with a, a' of one stratum and b, b' of one, whose
    mean square is four times that of phi. Source: Efron and Stein, The jackknife estimate of variance, 1981.

    Args:
        differences: Double differences of independent samples `(k,)`.
        n: Number of samples.
    """
    return float(differences.square().mean()) / 8 / n**2 if len(differences) else 0.0


def without_second_order(jackknife: float, second: float) -> float:
    """The standard error, from the jackknife's, which counts the second order's variance twice, and that variance."""
    first = jackknife**2
    # An estimate near zero has an error of its own; half of the second order is left in any case.
    return math.sqrt(min(first, max(first - second, second / 2)))


def double_differences(influence: Tensor, strata: int) -> Tensor:
    """Those of `second_order` of all pairs `(m, m)`, with a' = a + strata and b' = b + strata."""
    rows = influence[:-strata] - influence[strata:]
    index = torch.arange(len(rows))
    apart = (index[:, None] - index).abs()
    return (rows[:, :-strata] - rows[:, strata:])[(apart != 0) & (apart != strata)]
