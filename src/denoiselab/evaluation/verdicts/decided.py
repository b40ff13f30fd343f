"""Comparisons of cells that were drawn until their verdicts were decided, from what their records say of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import INFINITY
from denoiselab.evaluation.records import Record, evaluations
from denoiselab.evaluation.verdicts.compare import Comparison, Estimate


@dataclass(frozen=True, eq=False)
class DecidedComparison(Comparison):
    """Differences of K scores at the last look that both cells of a pair have, with the boundary of all looks.

    Cells that have no look in common are not compared: they have no standard error.

    Args:
        multiple: Of the standard error that a difference must exceed, `(K, K)`.
        n: Samples of each cell of a pair at their last common look, `(K, K)`.
    """

    multiple: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    n: Tensor = field(default_factory=lambda: torch.empty(0, 0))

    @cached_property
    def critical(self) -> float:
        """The largest multiple of the standard error."""
        return self._critical(self.paired)

    @property
    def scaled_error(self) -> Tensor:
        """`(K, K)`, of which `critical` is the multiple that a difference must exceed."""
        return self.multiple * self.standard_error / max(self.critical, 1e-300)

    def half_width(self, j: int, k: int) -> float:
        return float(self.multiple[j, k] * self.standard_error[j, k])

    def _excess(self, critical: float) -> Tensor:
        sign = 1 if self.estimates[0].lower_is_better else -1
        excess = sign * self.difference - self.multiple * self.standard_error
        return excess.where(~self._same, -1).nan_to_num(-1)

    def _critical(self, asked: Tensor) -> float:
        """The same critical value for any subset of pairs, since the pairs were chosen from the data."""
        return float(self.multiple.max())


def decided_comparison(group: Sequence[Record]) -> DecidedComparison:
    """The comparison of comparable records of decided frontiers.

    Args:
        group: Records with `against`: cell to n, difference of losses, standard error and multiple.
    """
    k = len(group)
    place = {record["cell"]: i for i, record in enumerate(group)}
    lower = bool(group[0]["scores"].get(group[0]["metric"], {}).get("lower_is_better", True))
    n, difference, error, multiple = (
        torch.full((k, k), math.nan, dtype=torch.float64).fill_diagonal_(0) for _ in "nder"
    )
    for record in group:
        for other, numbers in record["against"].items():
            if other in place:
                pair = place[record["cell"]], place[other]
                n[pair], difference[pair], error[pair], multiple[pair] = numbers
    at = "infinity" if group[0]["metric"].endswith(INFINITY) else "n"
    estimates = [_estimate(record, at, lower=lower) for record in group]
    own = torch.tensor([math.nan if r["standard_error"] is None else r["standard_error"] for r in group]).double()
    same = (error == 0) & ~torch.eye(k, dtype=torch.bool)
    return DecidedComparison(
        estimates, difference if lower else -difference, error, error.isfinite(), group[0]["stop"]["level"], at,
        own.square().diag(), 0, same, multiple.nan_to_num(0), n,
    )  # fmt: skip


def _estimate(record: Record, at: str, *, lower: bool) -> Estimate:
    score, error = record["score"], record["standard_error"]
    infinite = (score, error) if at == "infinity" else (None, None)
    return Estimate(record["cell"], score, error, record["n"], None, lower, evaluations(record), *infinite)
