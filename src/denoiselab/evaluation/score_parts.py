"""The parts of the scores of one model's cells, as `error_split.json` states them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from denoiselab.evaluation.contracts import INFINITY
from denoiselab.evaluation.records import Record, lower_is_better
from denoiselab.evaluation.verdicts.compare import Comparison
from denoiselab.evaluation.verdicts.error_split import (
    Split,
    advice,
    distance,
    fitted_order,
    frechet_bound,
    split,
)
from denoiselab.evaluation.verdicts.frontiers import Kept, comparison


def finished_group(
    entries: Sequence[tuple[dict[str, Any], Record]],
    squared: Mapping[str, Tensor],
    fine: Sequence[Record],
    between_fine: Tensor,
    kept: Kept,
) -> dict[str, Any]:
    """Everything that is stated of the cells of one set of weights and one guidance scale.

    Scores are those at infinitely many samples where all cells have them.

    Args:
        entries: The first fields of each cell, and its record.
        squared: Squared distances to the fine runs `(2, m)`, by `cell`; of ODE solvers alone.
        fine: Records of the fine runs, the reference first.
        between_fine: Squared distances between their samples `(m,)`.
        kept: Influences of a record, from which the differences of scores have their standard errors.
    """
    records, metric = [*fine, *(record for _, record in entries)], fine[0]["metric"]
    compared, apart = comparison(records, kept), distance(between_fine)
    name = metric + INFINITY if compared.at == "infinity" else metric
    values = [_value(record, name) for record in records]
    model = [min(value for value, _ in values[:2]), max(value for value, _ in values[:2])]
    cells = [
        _cell(record, entry, values[place]) | _parts(compared, place, values) | _rho(squared, record)
        for place, (entry, record) in enumerate(entries, start=len(fine))
    ]
    group: dict[str, Any] = {
        "metric": name,
        "n": fine[0]["n"],
        "images_seen": fine[0].get("images_seen"),
        "lower_is_better": lower_is_better(fine[0]),
        "fine": [_cell(record, {}, value) for record, value in zip(fine, values, strict=False)],
        "model_error": model,
        "apart": apart.value,
        "apart_standard_error": apart.standard_error,
        "bound": frechet_bound(apart.value, max(r["score"] for r in fine)) if _is_frechet(metric) else None,
        "cells": cells,
        "orders": _orders([record for _, record in entries], squared, apart.value),
    }
    return group | {"sentences": sentences(group)}


def sentences(group: Mapping[str, Any]) -> list[str]:
    """What the best cell of an ODE solver lacks, over all budgets and at each of the others."""
    lower, low_high = group["lower_is_better"], group["model_error"]
    cells = [cell for cell in group["cells"] if "distance" in cell]
    if not cells:
        return []

    def best(of: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        return min(of, key=lambda cell: cell["score"] if lower else -cell["score"])

    def said(cell: Mapping[str, Any]) -> str:
        error = cell["solver_part_standard_error"]
        noise = "" if error is None else f" (standard error {error:.2g})"
        parts = Split((low_high[0], low_high[1]), tuple(cell["solver_part"]), error, cell["resolved"])
        parts_of_it = f"model {_range(parts.model)} + solver {_range(parts.solver)}{noise}"
        return f"{cell['sampler']} {cell['score']:.3g} = {parts_of_it}{f': {advice(parts)}' if lower else ''}"

    whole = best(cells)
    budgets = sorted({cell["nfe"] for cell in cells} - {whole["nfe"]})
    at = "infinity" if group["metric"].endswith(INFINITY) else group["n"]
    return [
        f"best ODE cell, NFE {whole['nfe']:g}, at n = {at}: {said(whole)}",
        *(f"NFE {nfe:g}: {said(best([cell for cell in cells if cell['nfe'] == nfe]))}" for nfe in budgets),
    ]


def _is_frechet(metric: str) -> bool:
    return metric.startswith(("fid", "fd_"))


def _range(ends: Sequence[float]) -> str:
    low, high = (f"{end:.3g}" for end in ends)
    return low if low == high else f"{low} to {high}"


def _value(record: Record, name: str) -> tuple[Any, Any]:
    """Value and standard error of a metric, each None if there is none."""
    score = (record["scores"] or {}).get(name) or {}
    return score.get("value"), score.get("standard_error")


def _cell(record: Record, entry: Mapping[str, Any], value: tuple[Any, Any]) -> dict[str, Any]:
    keys = ("cell", "sampler", "nfe", "network_evaluations", "steps")
    return {**{key: record[key] for key in keys}, **entry, "score": value[0], "standard_error": value[1]}


def _parts(compared: Comparison, place: int, values: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """The solver's part of the score of a cell, whose place is that in the comparison; the fine runs come first."""
    errors = compared.standard_error[place, :2]
    error = float(errors.max()) if bool(errors.isfinite().all()) else None
    parts = split(values[place][0], [value for value, _ in values[:2]], error)
    return {
        "solver_part": list(parts.solver),
        "solver_part_standard_error": parts.standard_error,
        "paired": bool(compared.paired[place, :2].all()),
        "resolved": parts.resolved,
    }


def _rho(squared: Mapping[str, Tensor], record: Record) -> dict[str, Any]:
    """The distance to the fine runs, of an ODE solver."""
    if record["cell"] not in squared:
        return {}
    first, second = squared[record["cell"]]
    rho = distance(first)
    return {
        "distance": rho.value,
        "distance_standard_error": rho.standard_error,
        "median_distance": float(first.median().sqrt()),
        "distance_to_second": distance(second).value,
    }


def _orders(records: Sequence[Record], squared: Mapping[str, Tensor], apart: float) -> dict[str, Any]:
    """The fitted order of each sampler that has one, with its standard error."""
    out: dict[str, Any] = {}
    for name in dict.fromkeys(record["sampler"] for record in records):
        own = [r for r in records if r["sampler"] == name and r["cell"] in squared]
        found = fitted_order([squared[r["cell"]][0] for r in own], [r["steps"] for r in own], apart)
        if found is not None:
            out[name] = found._asdict()
    return out
