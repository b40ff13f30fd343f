"""Variances of the differences of scores on the same noise, from the influences of their samples.

Sample i of every cell starts from the same noise, so the influences of two cells are correlated, and the variance of a
difference of scores is that of the differences of influences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import Influences


class Variances(NamedTuple):
    """Variances of K scores and of their differences, `(K, K)` float64.

    Attributes:
        covariance: Of the scores, to first order.
        first: Of the differences, to first order: what the jackknife estimates.
        second: What the second order adds to those of the differences; 0 without an estimate.
        blocks: What subsets of the samples add to those of the differences.
    """

    covariance: Tensor
    first: Tensor
    second: Tensor
    blocks: Tensor


def pairs(m: int, strata: int, count: int) -> tuple[Tensor, Tensor]:
    """Samples a and b `(P,)`, P <= count, of double differences over a, a + strata, b and b + strata, four samples.

    They depend on the arguments alone, so that they are the same for all cells. Pairs of fewer samples are left out.

    Args:
        m: Number of samples; more than `strata`.
        strata: Sample i is drawn from stratum i mod strata.
        count: Number of pairs that are drawn.
    """
    rng = torch.Generator().manual_seed(0)
    rounds = -(-count // (m - strata))
    drawn = [[torch.randperm(m - strata, generator=rng) for _ in range(2)] for _ in range(rounds)]
    a, b = (torch.cat(part)[:count] for part in zip(*drawn, strict=True))
    apart = ((a - b).abs() != 0) & ((a - b).abs() != strata)
    return a[apart], b[apart]


def double_differences(influence: Tensor, strata: int, count: int) -> Tensor:
    """Those of `pairs` `(P,)`, of the matrix `(m, m)` of the second influences of samples on each other."""
    if len(influence) <= strata:
        return influence.new_empty(0)
    a, b = pairs(len(influence), strata, count)
    there = influence[a, b] - influence[a, b + strata]
    return there - influence[a + strata, b] + influence[a + strata, b + strata]


def within_strata(influence: Tensor, strata: int) -> tuple[Tensor, Tensor]:
    """Deviations `(*, m)` of influences from the mean of their stratum, and weights `(m,)` of their products.

    The mean of products times weights is an unbiased covariance within strata.
    """
    stratum = torch.arange(influence.shape[-1]) % strata
    counts = stratum.bincount().double()
    sums = influence.new_zeros(*influence.shape[:-1], strata, dtype=torch.float64)
    means = sums.index_add_(-1, stratum, influence.double()) / counts
    return influence - means[..., stratum], (counts / (counts - 1))[stratum]


def variances(cells: Sequence[Influences]) -> Variances:
    """Variances of the scores of cells and of their differences.

    To first order, V1 = var(psi_j - psi_k) / n with variances within strata; cells of n_j and n_k samples that share
    their first indices have s_j^2 / n_j + s_k^2 / n_k - 2 cov(psi_j, psi_k) / max(n_j, n_k). The second order is that
    of `standard_errors.second_order`, of the differences of double differences. Cells that differ in strata are taken
    for unstratified, which is an upper bound, and have no second order.

    Args:
        cells: Each of at least two samples a stratum.
    """
    strata = cells[0].strata if len({cell.strata for cell in cells}) == 1 else 1
    kept = torch.tensor([len(cell.first) for cell in cells])
    n = torch.tensor([float(cell.n) for cell in cells], dtype=torch.float64)
    common, most = torch.minimum(kept[:, None], kept), torch.maximum(n[:, None], n)
    correlation, spread = torch.empty(2, len(cells), len(cells), dtype=torch.float64)
    deviation = torch.empty(len(cells), dtype=torch.float64)
    for m in kept.unique().tolist():  # rising, so the last correlation of two cells is of all that both keep
        among = (kept >= m).nonzero().flatten()
        rows, weight = within_strata(torch.stack([cells[i].first[:m].double() for i in among.tolist()]), strata)
        rows *= (weight / m).sqrt()
        norm = rows.norm(dim=1)
        unit = rows / norm.where(norm > 0, 1)[:, None]
        correlation[among[:, None], among] = unit @ unit.T
        spread[among[:, None], among] = _distances(rows)
        deviation[among] = norm
    covariance = correlation * deviation[:, None] * deviation / most
    covariance.diagonal().copy_(deviation.square() / n)
    own = covariance.diagonal()
    first = (own[:, None] + own - 2 * covariance).clamp_min(0)
    alike = (n[:, None] == n) & (kept[:, None] == kept)
    first = torch.where(alike, spread / most, first)  # exactly 0 for equal influences
    drawn = torch.tensor([cell.strata for cell in cells])  # from them, and from the number kept, `pairs` are drawn
    second = _of_rows([cell.second for cell in cells], alike & (drawn[:, None] == drawn)) / (8 * most.square())
    blocks = [cell.blocks for cell in cells]
    centred = [block.double() - block.double().mean() for block in blocks]
    added = _of_rows([block / max(1, len(block) - 1) ** 0.5 for block in centred], common > 0)
    return Variances(covariance, first, second, added)


def _distances(rows: Tensor) -> Tensor:
    """Squared distances `(K, K)` of rows `(K, m)`, exactly 0 of equal ones."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()


def _of_rows(rows: Sequence[Tensor], alike: Tensor) -> Tensor:
    """Mean squared differences `(K, K)` of rows of equal lengths in cells that are alike; else 0."""
    out = torch.zeros(alike.shape, dtype=torch.float64)
    for length in {len(row) for row in rows} - {0}:
        among = torch.tensor([i for i, row in enumerate(rows) if len(row) == length])
        stacked = torch.stack([rows[i].double() for i in among.tolist()])
        out[among[:, None], among] = _distances(stacked) / length
    return out * alike
