"""Scores over several trainings: the variance of training and that of drawing samples, apart.

Runs r = 1..R of one method, which differ in the seed of training alone, have the scores d_r = mean + training_r + the
mean over n samples of index_i + own_ri: what all runs' sample i has in common, as it starts from the same noise, and
the rest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# More seeds than these are not searched for.
_MOST = 10_000


class Panel(NamedTuple):
    """Mean score over trainings.

    Attributes:
        mean: Of the R scores.
        standard_error: Of the mean as that of the method, over trainings and samples.
        df: Degrees of freedom of the standard error.
        training: Standard deviation of a score by training alone, estimated with R - 1 degrees of freedom; 0 if draws
            explain the spread. None if it has no estimate apart from the draws.
        draw: Standard deviation of a run's score by drawing its samples alone; None if there are no influences.
        spread: Standard deviation of the R scores.
        runs: R.
    """

    mean: float
    standard_error: float
    df: float
    training: float | None
    draw: float | None
    spread: float
    runs: int

    def interval(self, level: float = 0.05) -> tuple[float, float]:
        """The t interval of the mean over trainings."""
        from scipy.stats import t  # slow to import

        half = float(t.ppf(1 - level / 2, self.df)) * self.standard_error if self.standard_error else 0.0
        return self.mean - half, self.mean + half


def crossed(scores: Tensor, influences: Tensor, n: int, strata: int = 1) -> Panel:
    """The panel of runs that score the same indices; they share the noise of each index.

    The variance of the mean is S2 / R + c2 / n, with S2 the variance of the scores and c2 that of what runs share at an
    index: S2 / R alone leaves out that all runs have the same draws. c2 and the variance of the rest are from the mean
    squares of the two-way layout of runs and indices; the degrees of freedom are Satterthwaite's.

    Args:
        scores: `(R,)`, R >= 2; of a difference of two cells, the differences.
        influences: Of the first m samples of each run, or their differences, `(R, m)`.
        n: Samples of each run.
        strata: Sample i is drawn from stratum i mod strata; m >= 2 strata.

    Raises:
        ValueError: If there are fewer than 2 runs or than 2 influences a stratum.
    """
    runs, kept = influences.shape
    if runs < 2 or kept < 2 * strata:
        raise ValueError(f"{runs} run(s) of {kept} influences: it takes 2 runs, and 2 influences a stratum.")
    scores, deviations = scores.double(), _centred(influences.double(), strata)
    free = kept - strata
    shared = deviations.mean(0)
    of_index = float(runs * shared.square().sum()) / free
    own = float((deviations - shared).square().sum()) / ((runs - 1) * free)
    common = max(0.0, (of_index - own) / runs)
    spread = float(scores.var())
    training = max(0.0, spread - own / n)
    first, second = spread / runs, common / n
    variance = first + second
    df = variance**2 / (first**2 / (runs - 1) + second**2 / free) if variance else float(runs - 1)
    draw = math.sqrt((common + own) / n)
    return Panel(float(scores.mean()), math.sqrt(variance), df, math.sqrt(training), draw, math.sqrt(spread), runs)


def nested(scores: Tensor, standard_errors: Tensor | None = None) -> Panel:
    """The panel of runs that score indices of their own, whose scores are independent.

    Args:
        scores: `(R,)`, R >= 2.
        standard_errors: Of drawing the samples, `(R,)`; None if they have no estimate.

    Raises:
        ValueError: If there are fewer than 2 runs.
    """
    if len(scores) < 2:
        raise ValueError(f"{len(scores)} run(s): it takes 2.")
    variance = float(scores.double().var())
    draws = None if standard_errors is None else float(standard_errors.double().square().mean())
    return Panel(
        float(scores.double().mean()),
        math.sqrt(variance / len(scores)),
        len(scores) - 1,
        None if draws is None else math.sqrt(max(0.0, variance - draws)),
        None if draws is None else math.sqrt(draws),
        math.sqrt(variance),
        len(scores),
    )


def seeds_needed(ratio: float, power: float = 0.8, level: float = 0.05) -> int | None:
    """Trainings that a two-sided t test needs to find a difference with the given power; None: more than 10,000.

    Args:
        ratio: Of the difference to the standard deviation of the runs' differences.
        power: Probability of a verdict.
        level: Probability of a wrong verdict.
    """
    if not ratio:
        return None
    low, high = 2, 3
    while _power(high, abs(ratio), level) < power:
        low, high = high, 2 * high
        if low > _MOST:
            return None
    while low < high:  # the power rises with the number
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, abs(ratio), level) >= power else (middle + 1, high)
    return low


def _power(runs: int, ratio: float, level: float) -> float:
    """The probability that the t test of `runs` differences finds them unlike 0, with the right sign."""
    from scipy.stats import nct, t  # slow to import

    found = float(nct.sf(t.ppf(1 - level / 2, runs - 1), runs - 1, ratio * math.sqrt(runs)))
    return found if math.isfinite(found) else 1.0  # the noncentral t of a far difference underflows


def _centred(influences: Tensor, strata: int) -> Tensor:
    """Influences `(R, m)` less the mean of their stratum, of each run."""
    stratum = torch.arange(influences.shape[1]) % strata
    counts = stratum.bincount().to(influences.dtype)
    means = influences.new_zeros(len(influences), strata).index_add_(1, stratum, influences) / counts
    return influences - means[:, stratum]
