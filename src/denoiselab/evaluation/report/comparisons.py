"""The comparisons of cells that a page holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from denoiselab.evaluation.records import Record
from denoiselab.evaluation.verdicts.compare import Comparison, Estimate, compare
from denoiselab.evaluation.verdicts.decided import DecidedComparison, decided_comparison
from denoiselab.evaluation.verdicts.frontiers import LEVEL

# Fields of a record that are costs of a sample.
COSTS = ("nfe", "network_evaluations", "ms_per_sample", "flops_per_sample", "seconds_per_1k_images")

# Cells of a group, at most: the number of pairs grows with the square.
_MOST = 120


def comparisons(cells: Sequence[Record], level: float = LEVEL) -> list[dict[str, Any]]:
    """For each group and metric, the differences of all pairs of the cells of each run's newest checkpoint.

    `values` are what is compared, at infinite n or at n. `difference` and `error` (null without an estimate) are of the
    loss of cell i minus that of cell j for i < j, row by row, `paired` is 0 or 1, and `verdict` that of cell i.
    Of decided cells, `n` is that of both cells of a pair.
    `standings` are those of each cell by each cost, as of `Comparison.standings`. Of more than 120 cells, the best;
    cells of another version of the code among themselves.

    Args:
        cells: Of the page, in its order, with their `group`, and their `estimates` by metric.
        level: Probability of any wrong verdict; decided cells have their own.
    """
    newest = {(cell["group"], cell["run"]): cell["images_seen"] for cell in cells}
    groups: dict[tuple[str, str, bool], list[tuple[int, Estimate]]] = {}
    for number, cell in enumerate(cells):
        if newest[cell["group"], cell["run"]] == cell["images_seen"]:
            for metric, estimate in cell["estimates"].items():
                key = cell["group"], metric, bool(cell.get("other_code"))
                groups.setdefault(key, []).append((number, estimate))
    return [
        _compared(group, metric, sorted(among, key=lambda one: _loss(one[1]))[:_MOST], cells, level)
        for (group, metric, _), among in groups.items()
        if len(among) > 1
    ]


def _compared(
    group: str, metric: str, among: Iterable[tuple[int, Estimate]], cells: Sequence[Record], level: float
) -> dict[str, Any]:
    numbers, estimates = zip(*sorted(among, key=lambda one: one[0]), strict=True)
    records = [cells[number].get("record", {}) for number in numbers]
    found: Comparison = decided_comparison(records) if records[0].get("stop") else compare(estimates, level)
    sign = 1 if estimates[0].lower_is_better else -1
    decided = found if isinstance(found, DecidedComparison) else None
    return {
        "group": group,
        "metric": metric,
        "cells": numbers,
        "level": found.level,
        "at": found.at,
        "critical": round(found.critical, 4),
        "values": [float(f"{found.value(i):.6g}") for i in range(len(estimates))],
        "difference": _upper(sign * found.difference),
        "error": _upper(decided.scaled_error if decided else found.standard_error),
        **({"n": _upper(decided.n)} if decided else {}),
        "paired": [int(pair) for pair in _upper(found.paired.double())],
        "verdict": [found.verdict(i, j) for i in range(len(numbers)) for j in range(i + 1, len(numbers))],
        "standings": _standings(found, [cells[number] for number in numbers]),
    }


def _standings(found: Comparison, cells: Sequence[Record]) -> dict[str, list[str | None]]:
    """By each cost that all cells have; None where a difference from a cell of no more cost has no error."""
    out, known = {}, dict[str, list[str | None]]()  # costs that rise together have the same
    for name in COSTS:
        costs = [float(cell[name]) for cell in cells if cell.get(name) is not None]
        if len(costs) == len(cells):
            cost = torch.tensor(costs, dtype=torch.float64)
            cheaper = cost <= cost[:, None]
            if (order := str(cheaper.tolist())) not in known:
                tested = (found.standard_error.isfinite() | ~cheaper).all(1).tolist()
                known[order] = [one if own else None for one, own in zip(found.standings(costs), tested, strict=True)]
            out[name] = known[order]
    return out


def _upper(matrix: Tensor) -> list[Any]:
    """The part above the diagonal, row by row, to five digits; None for what is not finite."""
    rows = matrix.tolist()
    listed = [rows[i][j] for i in range(len(rows)) for j in range(i + 1, len(rows))]
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in listed]


def _loss(estimate: Estimate) -> float:
    return estimate.value if estimate.lower_is_better else -estimate.value
