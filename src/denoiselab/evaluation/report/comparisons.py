"""The comparisons of cells that a page holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from denoiselab.evaluation.records import Record
from denoiselab.evaluation.verdicts.compare import Comparison, Estimate, compare
from denoiselab.evaluation.verdicts.decided import DecidedComparison, decided_comparison
from denoiselab.evaluation.verdicts.frontiers import LEVEL

# Cells of a group, at most: the number of pairs grows with the square.
_MOST = 120


def comparisons(cells: Sequence[Record], level: float = LEVEL) -> list[dict[str, Any]]:
    """For each group and metric, the differences of all pairs of the cells of each run's newest checkpoint.

    `values` are what is compared, at infinite n or at n. `difference` and `error` (null without an estimate) are of the
    loss of cell i minus that of cell j for i < j, row by row, and `paired` is 0 or 1; |difference| > critical x error
    is a verdict. Of more than 120 cells, the best.

    Args:
        cells: Of the page, in its order, with their `group`, and their `estimates` by metric.
        level: Probability of any wrong verdict; decided cells have their own.
    """
    newest = {(cell["group"], cell["run"]): cell["images_seen"] for cell in cells}
    groups: dict[tuple[str, str], list[tuple[int, Estimate]]] = {}
    for number, cell in enumerate(cells):
        if newest[cell["group"], cell["run"]] == cell["images_seen"]:
            for metric, estimate in cell["estimates"].items():
                groups.setdefault((cell["group"], metric), []).append((number, estimate))
    return [
        _compared(group, metric, sorted(among, key=lambda one: _loss(one[1]))[:_MOST], cells, level)
        for (group, metric), among in groups.items()
        if len(among) > 1
    ]


def _compared(
    group: str, metric: str, among: Iterable[tuple[int, Estimate]], cells: Sequence[Record], level: float
) -> dict[str, Any]:
    numbers, estimates = zip(*sorted(among, key=lambda one: one[0]), strict=True)
    records = [cells[number].get("record", {}) for number in numbers]
    found: Comparison = decided_comparison(records) if records[0].get("stop") else compare(estimates, level)
    sign = 1 if estimates[0].lower_is_better else -1
    return {
        "group": group,
        "metric": metric,
        "cells": numbers,
        "level": found.level,
        "at": found.at,
        "critical": round(found.critical, 4),
        "values": [float(f"{found.value(i):.6g}") for i in range(len(estimates))],
        "difference": _upper(sign * found.difference),
        "error": _upper(found.standard_error if not isinstance(found, DecidedComparison) else found.scaled_error),
        "paired": [int(pair) for pair in _upper(found.paired.double())],
    }


def _upper(matrix: Tensor) -> list[Any]:
    """The part above the diagonal, row by row, to five digits; None for what is not finite."""
    rows = matrix.tolist()
    listed = [rows[i][j] for i in range(len(rows)) for j in range(i + 1, len(rows))]
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in listed]


def _loss(estimate: Estimate) -> float:
    return estimate.value if estimate.lower_is_better else -estimate.value
