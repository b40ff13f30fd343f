"""Verdicts over all pairs of several scores at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import Influences
from denoiselab.evaluation.verdicts.paired import variances

BETTER, WORSE, UNDECIDED, TIE = "better", "worse", "undecided", "tie"
SURE, TIED, DOMINATED = "sure", "tied", "dominated"

# Draws of all scores, from which critical values are taken: a quantile of 95 % is known to 0.01.
_DRAWS = 20_000

# Of critical values: 20 of the draws lie above that of this level.
LEAST_LEVEL = 0.001

# Float32 features move an influence by 5e-6 of its spread. Cells that differ by less than this are of the same samples.
_SAME = 1e-4

# Influences are float32: a variance from them differs from that of a score, stored apart, by less than this, times it.
_ROUNDING = 1e-5


class Estimate(NamedTuple):
    """A score to be compared.

    Attributes:
        name: Distinct from the others' names.
        value: At n samples.
        standard_error: Of `value`; None if it has no estimate.
        n: Number of samples.
        influences: None if they were not kept; the score is then compared as if its samples were independent.
        lower_is_better: The same for all.
        cost: Of a sample, such as its network evaluations.
        value_at_infinity: The value extrapolated to infinitely many samples; None if there is none.
        standard_error_at_infinity: Of `value_at_infinity`.
    """

    name: str
    value: float
    standard_error: float | None
    n: int
    influences: Influences | None = None
    lower_is_better: bool = True
    cost: float = 0.0
    value_at_infinity: float | None = None
    standard_error_at_infinity: float | None = None


class Best(NamedTuple):
    """The best of some scores.

    Attributes:
        best: Index of the best value.
        ties: Those that are not surely worse than the best or than another one, by rising loss.
        surely_worse: The others, by rising loss.
    """

    best: int
    ties: list[int]
    surely_worse: list[int]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Differences of K scores with their standard errors, and one critical value for all pairs.

    |difference| > critical x standard error holds for any pair of equal scores with probability `level` at most, and
    the intervals difference +- critical x standard error hold for all pairs at once with probability 1 - `level`. So
    verdicts and `best` need no further correction.

    Args:
        estimates: K.
        difference: Value j less value k, `(K, K)`.
        standard_error: Of `difference`; NaN without an estimate.
        paired: Whether `standard_error` is that of scores on the same noise; else of independent ones.
        level: Probability of any wrong verdict.
        at: "infinity" if the values at infinity are compared, else "n".
        covariance: Of the scores, to first order; 0 between scores that are not paired.
        seed: Of the draws.
    """

    estimates: Sequence[Estimate]
    difference: Tensor
    standard_error: Tensor
    paired: Tensor
    level: float
    at: str
    covariance: Tensor
    seed: int = 0
    _same: Tensor = field(default_factory=lambda: torch.empty(0), repr=False)

    @cached_property
    def critical(self) -> float:
        """The quantile of the largest of all |difference| / standard error of equal scores: single-step max-t."""
        k = len(self.estimates)
        return self._critical(torch.ones(k, k, dtype=torch.bool))

    def value(self, j: int) -> float:
        """Of score j, at infinity or at n."""
        return _value(self.estimates[j], self.at)

    def error(self, j: int) -> float:
        """The standard error of score j alone; NaN without an estimate."""
        return _error(self.estimates[j], self.at)

    def verdict(self, j: int, k: int) -> str:
        """Of score j: "better" or "worse" than score k, "undecided", or "tie" if both are of the same samples."""
        if j == k or bool(self._same[j, k]):
            return TIE
        return BETTER if bool(self._worse[k, j]) else WORSE if bool(self._worse[j, k]) else UNDECIDED

    def half_width(self, j: int, k: int) -> float:
        """Of the interval of `difference[j, k]`; NaN if its error has no estimate, or one of 0 for unlike scores."""
        error = float(self.standard_error[j, k])
        return self.critical * error if error or j == k or bool(self._same[j, k]) else float("nan")

    def best(self, indices: Sequence[int]) -> Best:
        """The best of some scores, those that tie with it, and those that one of them is surely better than.

        All of it holds together with probability 1 - `level`, for all sets of indices at once.
        """
        among = sorted(indices, key=lambda i: self._losses[i])
        worse = self._worse[:, among].any(1)
        rest = among[1:]
        return Best(among[0], [i for i in rest if not worse[i]], [i for i in rest if worse[i]])

    def contenders(self, indices: Sequence[int]) -> list[int]:
        """Those of some scores that may be the best: the best of all is among them with probability 1 - `level`.

        Fewer than `best` and its ties, as each is compared with the others alone, by a critical value of its own, and
        no sentence on all pairs is made: for choosing which to measure further.
        """
        out = []
        for j in indices:
            others = torch.zeros_like(self.paired)
            others[j, list(indices)] = True
            if not bool((self._excess(self._critical(others)) > 0)[others].any()):
                out.append(j)
        return out

    def pareto(self, costs: Sequence[float] | None = None) -> list[bool]:
        """Whether each score may be on the frontier of cost and score: none of no greater cost is surely better.

        These hold all of the true frontier with probability 1 - `level`: the critical value is that of the largest
        one-sided difference from a score of no greater cost. A score is not among them if another one of less cost is
        of the same samples.

        Args:
            costs: None for those of the estimates.
        """
        cost = self._costs(costs)
        cheaper = _cheaper(cost)
        beaten = cheaper & (self._excess(self._critical(cheaper)) > 0)
        dominated = beaten | (cost < cost[:, None]) & self._same
        return [not any(row) for row in dominated.tolist()]

    def standings(self, costs: Sequence[float] | None = None) -> list[str]:
        """How sure each score's place on the frontier is.

        "dominated": not one of `pareto`. "sure": one of `pareto`, and surely better than all of no greater cost.
        "tied": one of `pareto`, and some score of no greater cost may be as good.
        """
        behind = self._worse.T | ~_cheaper(self._costs(costs))
        sure = behind.all(1).tolist()
        return [(SURE if s else TIED) if p else DOMINATED for p, s in zip(self.pareto(costs), sure, strict=True)]

    def _costs(self, costs: Sequence[float] | None) -> Tensor:
        given = [one.cost for one in self.estimates] if costs is None else [*costs]
        return torch.tensor(given, dtype=torch.float64)

    @cached_property
    def _worse(self) -> Tensor:
        """Whether score j is surely worse than score i, `[j, i]`."""
        return self._excess(self.critical) > 0

    @cached_property
    def _losses(self) -> list[float]:
        return [self.value(j) if one.lower_is_better else -self.value(j) for j, one in enumerate(self.estimates)]

    def _excess(self, critical: float) -> Tensor:
        """How far `(K, K)` score j is worse than score i beyond chance, `[j, i]`; negative without an error."""
        loss = torch.tensor(self._losses, dtype=torch.float64)
        excess = loss[:, None] - loss - critical * self.standard_error
        return excess.where(~self._same & (self.standard_error > 0), -1).nan_to_num(-1)

    @cached_property
    def _draws(self) -> tuple[Tensor, Tensor]:
        """Draws `(K, N)` of the errors of all scores, and the standard deviations `(K, K)` of their differences.

        A multiplier bootstrap with one N(0, 1) multiplier an index, common to all cells, is a draw of N(0, covariance).
        Pairs of the same samples, and scores without an estimate, have no deviation (infinity).
        """
        order = sorted(range(len(self.estimates)), key=lambda i: self.estimates[i].name)  # of no effect on a verdict
        known = self.covariance.diagonal().isfinite()
        centre = torch.eye(len(order), dtype=torch.float64) - 1 / len(order)  # what is common to all has no effect
        covariance = centre @ self.covariance.nan_to_num(0)[order][:, order] @ centre
        values, vectors = torch.linalg.eigh(covariance)
        generator = torch.Generator().manual_seed(self.seed)
        normal = torch.randn(len(order), _DRAWS, generator=generator, dtype=torch.float64)
        draws = torch.empty_like(normal)
        draws[order] = vectors * values.clamp_min(0).sqrt() @ normal
        own = self.covariance.diagonal()
        spread = (own[:, None] + own - 2 * self.covariance).clamp_min(0).sqrt()
        return draws, spread.where(known[:, None] & known & ~self._same & (spread > 0), torch.inf)

    def _critical(self, asked: Tensor) -> float:
        """The quantile of the largest (draw j - draw i) / deviation over pairs `[j, i]` that are asked for."""
        if not bool(asked.any()):
            return 0.0
        draws, spread = self._draws
        largest = torch.zeros(_DRAWS, dtype=torch.float64)
        for j in asked.any(1).nonzero().flatten().tolist():
            i = asked[j].nonzero().flatten()
            largest = largest.maximum(((draws[j] - draws[i]) / spread[j, i, None]).amax(0))
        return float(largest.quantile(1 - self.level))


def compare(estimates: Sequence[Estimate], level: float = 0.05, seed: int = 0) -> Comparison:
    """Compare scores on the same noise.

    If every score has a value at infinity, these are compared: the bias of values at n does not cancel between cells of
    different covariance. Otherwise, values at n.

    The variance of a difference of values at infinity is that of the jackknife, V1, and of values at n it is
    max(V1 - V2, V2 / 2), V1 at most: the jackknife counts the second order's variance V2 twice, and the value at
    infinity, which is bilinear in both halves of the samples, has it twice. Added is the square of the difference of
    what the lines of two scores to infinity miss, which is what their own variances have above V1. Scores without
    influences have the sum of their own variances.

    Args:
        estimates: At least one. At values of different n, they must be unbiased.
        level: Probability of any wrong verdict.
        seed: Of the draws for critical values.

    Raises:
        ValueError: If there is no estimate, or level is not from 0.001 to 1, 1 left out.
    """
    if not estimates or not LEAST_LEVEL <= level < 1:
        raise ValueError(f"level={level}: it must be from {LEAST_LEVEL} to less than 1, for at least one estimate.")
    at = "n" if any(one.value_at_infinity is None for one in estimates) else "infinity"
    value = torch.tensor([_value(one, at) for one in estimates], dtype=torch.float64)
    own = torch.tensor([_error(one, at) for one in estimates], dtype=torch.float64).square()
    kept = [i for i, one in enumerate(estimates) if _can_pair(one.influences)]
    paired = torch.zeros(len(own), len(own), dtype=torch.bool)
    covariance, variance = own.diag(), own[:, None] + own
    if kept:
        found = variances([cell for one in estimates if _can_pair(cell := one.influences)])
        there = torch.tensor(kept)
        paired[there[:, None], there] = True
        covariance[there[:, None], there] = found.covariance
        second = found.second if at == "n" else torch.zeros_like(found.second)
        bent = _bent(own[there], found.covariance.diagonal()) if at == "infinity" else torch.zeros(())
        within = torch.minimum(found.first, torch.maximum(found.first - second, second / 2))
        variance[there[:, None], there] = within + found.blocks + bent
    diagonal = covariance.diagonal()
    scale = diagonal[:, None] + diagonal
    difference = value[:, None] - value
    same = paired & (variance <= _SAME**2 * scale) & (difference.square() <= _SAME * scale)
    variance.fill_diagonal_(0)
    return Comparison(estimates, difference, variance.sqrt(), paired, level, at, covariance, seed, same)


def _bent(own: Tensor, first: Tensor) -> Tensor:
    """Squared differences `(K, K)` of what the lines to infinity miss, from variances with it and without, `(K,)`."""
    over = own - first
    missed = over.where(over > _ROUNDING * first, 0).sqrt()
    return (missed[:, None] - missed).square()


def _cheaper(cost: Tensor) -> Tensor:
    """Whether score i costs no more than score j, `[j, i]`; False for itself."""
    return (cost <= cost[:, None]) & ~torch.eye(len(cost), dtype=torch.bool)


def _value(one: Estimate, at: str) -> float:
    return one.value if at == "n" or one.value_at_infinity is None else one.value_at_infinity


def _error(one: Estimate, at: str) -> float:
    error = one.standard_error_at_infinity if at == "infinity" else one.standard_error
    return float("nan") if error is None else error


def _can_pair(influences: Influences | None) -> TypeGuard[Influences]:
    """Whether there are two influences a stratum."""
    return influences is not None and len(influences.first) >= 2 * influences.strata
