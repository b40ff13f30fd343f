"""Several trainings that differ by their seed alone: each cell's score over trainings, and differences of cells."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoiselab.evaluation.contracts import INFINITY, Influences
from denoiselab.evaluation.records import Record, guidance_text, lower_is_better, measured
from denoiselab.evaluation.store import Store, mark_code
from denoiselab.evaluation.verdicts.compare import BETTER, UNDECIDED, WORSE, compare
from denoiselab.evaluation.verdicts.frontiers import estimate
from denoiselab.evaluation.verdicts.panel import Panel, crossed, nested, seeds_needed

# What names a cell beside its measure; the weights' hash differs between trainings.
_CELL = (
    "sampler",
    "images_seen",
    "model_sha256",
    "classifier_sha256",
    "weights",
    "guidance",
    "guider",
    "classifier_scale",
    "settings",
)


class _Cell(NamedTuple):
    """A cell that all trainings have.

    Attributes:
        records: One a training.
        at: Name of the metric that is compared.
        values: Of the trainings `(R,)`.
        influences: One a training; empty if some are missing.
    """

    records: Sequence[Record]
    at: str
    values: Tensor
    influences: Sequence[Influences]

    @property
    def seeds(self) -> set[int]:
        return {record["seed"] for record in self.records}


def panel_of(stores: Sequence[Store], level: float = 0.05) -> dict[str, Any] | None:
    """Scores over trainings of the cells that all of them have; None if there is no such cell.

    `cells` has a row a cell: the mean over trainings with its t interval, and the standard deviations of a score by
    training alone and by drawing its samples alone. `differences` has the best cell of each number of network calls
    against each other one, with intervals that hold together for all pairs of them, as the best is chosen by the same
    scores, and the trainings that a test of power 0.8 needs. `left_out` has the cells that cannot be compared over
    trainings, each with the reason (`why`).

    Trainings that score the same indices share the draws, which is part of the intervals; trainings that score
    indices of their own (another `evaluation.seed` each) do not.

    Args:
        stores: One a training; at least two.
        level: Probability that an interval of a mean, or any one of those of differences, leaves out the truth.
    """
    found = [*_cells(stores)]
    whole = [len(cell.seeds) == len(stores) or _paired([cell]) for cell in found]
    cells = [*compress(found, whole)]
    if not cells:
        return None
    budgets = [*_budgets(cells)]
    pairs = sum(math.comb(len(budget), 2) for budget in budgets)  # any of them may be the best and another one
    return {
        "trainings": len(stores),
        "level": level,
        "cells": [_row(cell, level) for cell in cells],
        "differences": [_difference(best, other, level / pairs) for best, *others in budgets for other in others],
        "left_out": [_left_out(cell) for cell, used in zip(found, whole, strict=True) if not used],
    }


def compare_over(
    ones: Sequence[tuple[Store, Record]],
    others: Sequence[tuple[Store, Record]],
    metric: str | None = None,
    level: float = 0.05,
) -> dict[str, Any]:
    """A cell against another one over trainings: verdicts on each training, and on the methods.

    Unlike the differences of `panel_of`, the two cells are chosen beforehand, so no other pair widens the interval;
    their calls, guidance or trainings may differ, if training r of both starts from the same noise. `single` has of
    each training `difference`, `standard_error` and `verdict` of the first cell, from the influences of its samples;
    `mean`, `interval`, `sd`, `training_sd`, `draw_sd` and `verdict` are those of the difference over trainings.

    A metric without influences, such as recall, has no verdict on a single training, and its interval leaves out what
    trainings share by drawing the same noise.

    Args:
        ones: The first cell, with where it is stored, of each training; at least two.
        others: The second cell of the same trainings.
        metric: None for the primary one.
        level: Probability that a verdict is wrong: of any one training, and of the methods.

    Raises:
        ValueError: If there are fewer than two trainings, or not as many of both cells.
    """
    if len(ones) != len(others):
        raise ValueError(f"{len(ones)} and {len(others)} trainings: both cells must have the same ones.")
    one, other = (_cell([store for store, _ in cell], [row for _, row in cell], metric) for cell in (ones, others))
    base = one.at.removesuffix(INFINITY)
    pairs = [
        compare([estimate(record, store.influences(record), base) for store, record in pair], level)
        for pair in zip(ones, others, strict=True)
    ]
    numbers = _numbers(_panel(one.values - other.values, [one, other], [1, -1]), level)
    low, high = numbers["interval"]
    more, less = (WORSE, BETTER) if pairs[0].estimates[0].lower_is_better else (BETTER, WORSE)
    return {
        "metric": one.at,
        "single": [
            {
                "difference": float(pair.difference[0, 1]),
                "standard_error": float(pair.standard_error[0, 1]),
                "verdict": pair.verdict(0, 1),
            }
            for pair in pairs
        ],
        **numbers,
        "verdict": less if high < 0 else more if low > 0 else UNDECIDED,
    }


def _cells(stores: Sequence[Store]) -> Iterator[_Cell]:
    found: dict[str, dict[int, Record]] = {}
    for number, store in enumerate(stores):
        records = [*store.read().values()]
        mark_code(records)
        for record in records:
            if record["score"] is not None and not record["other_code"]:
                own = [*measured({**record, "seed": 0}), *(record.get(key) for key in _CELL), record["steps"]]
                found.setdefault(json.dumps(own, sort_keys=True), {})[number] = record
    for cell in found.values():
        if len(cell) == len(stores):
            yield _cell(stores, [cell[number] for number in range(len(stores))])


def _cell(stores: Sequence[Store], records: Sequence[Record], metric: str | None = None) -> _Cell:
    primary = metric in (None, records[0]["metric"])
    metric = metric or records[0]["metric"]
    base = metric.removesuffix(INFINITY)
    infinite = [record["scores"].get(base + INFINITY, {}).get("value") for record in records]
    at, values = metric, [record["score"] if primary else record["scores"][metric]["value"] for record in records]
    if None not in infinite:
        at, values = base + INFINITY, infinite
    kept = [store.influences(record).get(base) for store, record in zip(stores, records, strict=True)]
    whole = [one for one in kept if one is not None]
    return _Cell(records, at, torch.tensor(values, dtype=torch.float64), whole if len(whole) == len(kept) else [])


def _budgets(cells: Sequence[_Cell]) -> Iterator[list[_Cell]]:
    """Cells of equal number of calls and equal measure, the best first."""
    groups: dict[tuple[Any, ...], list[_Cell]] = {}
    for cell in cells:
        first = cell.records[0]
        groups.setdefault((first["nfe"], cell.at, tuple(sorted(cell.seeds)), measured(first)), []).append(cell)
    for group in groups.values():
        sign = 1 if lower_is_better(group[0].records[0]) else -1
        yield sorted(group, key=lambda cell: sign * float(cell.values.mean()))


def _paired(cells: Sequence[_Cell]) -> bool:
    """Whether trainings score the same indices, and their influences are kept."""
    kept = [one for cell in cells for one in cell.influences]
    return (
        all(cell.influences and len(cell.seeds) == 1 for cell in cells)
        and len({(one.n, one.strata) for one in kept}) == 1
        and min(len(one.first) for one in kept) >= 2 * kept[0].strata
    )


def _panel(values: Tensor, cells: Sequence[_Cell], signs: Sequence[int]) -> Panel:
    """Of a cell, or of the difference of two."""
    if _paired(cells):
        kept = [one for cell in cells for one in cell.influences]
        m = min(len(one.first) for one in kept)
        rows = sum(
            sign * torch.stack([one.first[:m].double() for one in cell.influences])
            for sign, cell in zip(signs, cells, strict=True)
        )
        assert isinstance(rows, Tensor)
        return crossed(values, rows, kept[0].n, kept[0].strata)
    errors = [record["scores"][cells[0].at]["standard_error"] for record in cells[0].records]
    known = len(cells) == 1 and None not in errors
    return nested(values, torch.tensor(errors, dtype=torch.float64) if known else None)


def _row(cell: _Cell, level: float) -> dict[str, Any]:
    panel, first = _panel(cell.values, [cell], [1]), cell.records[0]
    return {
        **_named(first),
        "metric": cell.at,
        "n": first["n"],
        "scores": cell.values.tolist(),
        **_numbers(panel, level),
        "crossed": len(cell.seeds) == 1,
        "cells": [record["cell"] for record in cell.records],
    }


def _left_out(cell: _Cell) -> dict[str, Any]:
    drawn = sorted({record["n"] for record in cell.records})
    if len(drawn) > 1:
        why = f"trainings have {' and '.join(map(str, drawn))} samples of it; stop=fixed gives all of them as many"
    else:
        why = "trainings share its noise, and not all have influences of its samples; rescore=true scores it again"
    return {**_named(cell.records[0]), "why": why}


def _difference(best: _Cell, other: _Cell, level: float) -> dict[str, Any]:
    values = other.values - best.values
    panel = _panel(values, [other, best], [1, -1])
    numbers = _numbers(panel, level)
    low, high = numbers["interval"]
    return {
        "best": _named(best.records[0]),
        "other": _named(other.records[0]),
        "metric": best.at,
        **numbers,
        "sure": not low <= 0 <= high,
        "seeds_needed": seeds_needed(panel.mean / panel.spread) if panel.spread else None,
    }


def _named(record: Record) -> dict[str, Any]:
    own = {key: record[key] for key in ("sampler", "nfe", "weights", "guidance")}
    return {**own, "guided": guidance_text(record)}


def _numbers(panel: Panel, level: float) -> dict[str, Any]:
    numbers: Mapping[str, Any] = panel._asdict()
    names = {"training": "training_sd", "draw": "draw_sd", "spread": "sd", "runs": "trainings"}
    return {**{names.get(key, key): value for key, value in numbers.items()}, "interval": [*panel.interval(level)]}
