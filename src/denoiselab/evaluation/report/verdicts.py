"""Verdicts on the cells of a frontier: a file beside its records, and sentences.

`verdicts.json` is an object with the `level` and with `groups`, one for each metric of each set of comparable cells,
the primary metric first:

- `metric`, `primary`, `level` (of a decided frontier its own), `n` (of a decided frontier the largest),
  `lower_is_better`; `at`: whether values at "infinity" or at "n" are compared; `critical`: the multiple of the
  standard error that |difference| must exceed.
- `cells`: each with `cell` (the record's), `series`, `nfe`, `network_evaluations`, `value` (that is compared),
  `standard_error` (its own), `standing` ("sure": surely better than all cells of no greater cost; "tied": none of them
  is surely better; "dominated"), `paired` (whether influences were kept).
- `pairs`: each with `a` and `b` (places in `cells`, a < b), `difference` (value of a less value of b), `standard_error`
  (null without an estimate), `half_width` of the interval, `paired`, and `verdict` of a: "better", "worse", "undecided"
  or "tie" (the same samples).
- `budgets`: for each number of calls, each with `nfe`, the place of the `best` cell, `ties` and `surely_worse`,
  `may_be_best` (cells among which the truly best one is with that probability, fewer than all ties), and `sentence`.
- `notes`: sentences on cells that were not paired, or have no verdict.
- `trainings`: of the model, 1; see `evaluation.trainings` for verdicts over several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from denoiselab.evaluation.contracts import INFINITY
from denoiselab.evaluation.records import Record, comparable, evaluations
from denoiselab.evaluation.report.tables import by_series, digits
from denoiselab.evaluation.store import Store
from denoiselab.evaluation.verdicts import Comparison
from denoiselab.evaluation.verdicts.compare import WORSE
from denoiselab.evaluation.verdicts.decided import DecidedComparison
from denoiselab.evaluation.verdicts.frontiers import LEVEL, comparison, groups
from denoiselab.files import write_json

VERDICTS = "verdicts.json"

ONE_TRAINING = "One training: these verdicts are about this model; a page of runs with other seeds is about methods."


def write_verdicts(store: Store, records: Sequence[Record], level: float = LEVEL) -> dict[str, Any]:
    """Write `verdicts.json` of some records of a store, with its own checksum, and return its content."""
    content = {"level": level, "groups": verdicts(store, records, level)}
    write_json(store.directory / VERDICTS, content)
    return content


def verdicts(store: Store, records: Sequence[Record], level: float = LEVEL) -> list[dict[str, Any]]:
    """The groups of `verdicts.json`."""
    series = {record["cell"]: name for name, rows in by_series(records).items() for record in rows}
    kept = {record["cell"]: store.influences(record) for record in records}
    out, found = [], groups(records)
    present = {comparable(group[0]) for group in found if not group[0].get("other_code")}
    for group in found:
        for metric in _metrics(group):
            both = comparison(group, lambda record: kept[record["cell"]], metric, level)
            out.append(_group(group, both, metric, series))
        if group[0].get("other_code") and comparable(group[0]) in present:
            names = [*dict.fromkeys(series[record["cell"]] for record in group)]
            are = "is" if len(names) == 1 else "are"
            out[-len(_metrics(group))]["notes"].append(
                f"{', '.join(names)} {are} not compared with the others: another version of the code scored "
                f"{'it' if len(names) == 1 else 'them'}."
            )
    return out


def sentences(content: Mapping[str, Any]) -> list[str]:
    """What `verdicts.json` says of primary metrics, for the end of a table."""
    primary = [group for group in content["groups"] if group["primary"]]
    said = [text for group in primary for text in (*(b["sentence"] for b in group["budgets"]), *group["notes"])]
    return [*dict.fromkeys(said)]


def _metrics(group: Sequence[Record]) -> list[str]:
    """The metrics that all records have, but for those of values at infinity and without any standard error."""
    primary = group[0]["metric"]
    if group[0].get("stop"):
        return [primary]  # of different n, which it alone decided
    shared = [record["scores"] or {} for record in group]
    others = [
        metric
        for metric in shared[0]
        if not metric.endswith(INFINITY)
        and all((one.get(metric) or {}).get("value") is not None for one in shared)
        and any(one[metric]["standard_error"] is not None for one in shared)
    ]
    return [primary, *(metric for metric in others if metric != primary)]


def _group(group: Sequence[Record], both: Comparison, metric: str, series: Mapping[str, str]) -> dict[str, Any]:
    standings = both.standings()
    biased = both.at == "n" and any(metric + INFINITY in (record.get("scores") or {}) for record in group)
    where = f", at n = {group[0]['n']}" if biased else ""
    cells = [
        {
            "cell": record["cell"],
            "series": series[record["cell"]],
            "nfe": record["nfe"],
            "network_evaluations": evaluations(record),
            "value": both.value(i),
            "standard_error": _plain(both.error(i)),
            "standing": standings[i],
            "paired": bool(both.paired[i, i]),
        }
        for i, record in enumerate(group)
    ]
    return {
        "metric": metric,
        "primary": metric == group[0]["metric"],
        "level": both.level,
        "n": max(record["n"] for record in group),
        "lower_is_better": both.estimates[0].lower_is_better,
        "at": both.at,
        "critical": _plain(both.critical),
        "cells": cells,
        "pairs": [_pair(both, a, b) for b in range(len(cells)) for a in range(b)],
        "budgets": [_budget(both, cells, (nfe, where), among) for nfe, among in _budgets(cells).items()],
        "notes": [*_notes(both, cells, metric, biased=biased), *_spent(group, cells)],
        "trainings": 1,
    }


def _pair(both: Comparison, a: int, b: int) -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "difference": _plain(float(both.difference[a, b])),
        "standard_error": _plain(float(both.standard_error[a, b])),
        "half_width": _plain(both.half_width(a, b)),
        "paired": bool(both.paired[a, b]),
        "verdict": both.verdict(a, b),
    }


def _budgets(cells: Sequence[Mapping[str, Any]]) -> dict[float, list[int]]:
    """The cells that can be compared at each number of calls that a series spends.

    They are, of each series, the one of the most calls that are no more than the budget and more than half of it: a
    sampler of two calls a step spends 9 of 10. These are of two series at least, and calls that one series alone spends
    are no budget of their own if that cell is compared at a larger one.
    """
    spent = [cell["nfe"] for cell in cells]
    out: dict[float, list[int]] = {}
    for nfe in sorted({*spent}, reverse=True):
        of_series: dict[str, int] = {}
        for i in sorted(range(len(cells)), key=spent.__getitem__):
            if nfe / 2 < spent[i] <= nfe:
                of_series[cells[i]["series"]] = i
        further = spent.count(nfe) > 1 or not any(spent.index(nfe) in among for among in out.values())
        if further and len(of_series) > 1:
            out[nfe] = [*of_series.values()]
    return dict(sorted(out.items()))


def _budget(
    both: Comparison, cells: Sequence[Mapping[str, Any]], budget: tuple[float, str], among: Sequence[int]
) -> dict[str, Any]:
    """Of a number of calls, with what its sentence says of n."""
    (nfe, where), (best, ties, worse) = budget, both.best(among)

    def name(i: int) -> str:
        return cells[i]["series"] if cells[i]["nfe"] == nfe else f"{cells[i]['series']} at {cells[i]['nfe']}"

    parts = [f"NFE {nfe}{where}: {name(best)}"]
    if ties:
        parts.append("ties: " + ", ".join(f"{name(i)}{_difference(both, i, best)}" for i in ties))
    if worse:
        parts.append("surely worse: " + ", ".join(name(i) + than(both, i, [best, *ties, *worse], name) for i in worse))
    return {
        "nfe": nfe,
        "best": best,
        "ties": ties,
        "surely_worse": worse,
        "may_be_best": both.contenders(among),
        "sentence": "; ".join(parts),
    }


def than(both: Comparison, i: int, ranked: Sequence[int], name: Callable[[int], str]) -> str:
    """What score i is surely worse than, where that is not the best one, from which its difference may be 0.

    Args:
        both: The comparison.
        i: A score that is surely worse than one of `ranked`.
        ranked: Scores, the best first.
        name: Of a score.
    """
    better = next(k for k in ranked if both.verdict(i, k) == WORSE)
    return "" if better == ranked[0] else f" (than {name(better)})"


def _difference(both: Comparison, i: int, best: int) -> str:
    width = both.half_width(i, best)
    if not math.isfinite(width):
        return ""
    places = max(0, 1 - math.floor(math.log10(width))) if width else 2
    at = f" at n = {int(both.n[i, best])}" if isinstance(both, DecidedComparison) else ""
    return f" (difference {float(both.difference[i, best]):.{places}f} +- {width:.{places}f}{at})"


def _notes(both: Comparison, cells: Sequence[Mapping[str, Any]], metric: str, *, biased: bool) -> list[str]:
    if len(cells) < 2:
        return []
    others = ~torch.eye(len(cells), dtype=torch.bool)
    if not bool(both.standard_error[others].isfinite().any()):
        return [f"No verdicts: {metric} has no standard error of these cells."]
    at = "extrapolated to infinitely many samples" if both.at == "infinity" else f"at n = {both.estimates[0].n}"
    count = len(cells) * (len(cells) - 1) // 2
    within = "it lies within +-" if count == 1 else f"all {count} of them lie within +- at once"
    out = [
        f"{'The difference is that' if count == 1 else 'Differences are those'} of {metric} {at}, and {within} with "
        f"probability {1 - both.level:.0%}; standard errors in the plot and in frontier.csv are those of a cell alone."
    ]
    if biased:
        out.append(
            f"The bias of {metric} {at} does not cancel between cells of different spread; from n = 2 x dimensions on, "
            "values at n = infinity are compared, which are free of it."
        )
    alone = [f"{cell['series']}@{cell['nfe']}" for cell in cells if not cell["paired"]]
    if alone:
        out.append(
            f"Compared as if on noise of their own, as no influences of their samples are stored: {', '.join(alone)}; "
            "evaluation.rescore=true (sample.py: task.rescore=true) scores them again."
        )
    return out


def _spent(group: Sequence[Record], cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many samples a frontier took that was drawn until it was decided, and what is not."""
    if not (stop := group[0].get("stop")):
        return []
    drawn = [record["n"] for record in group]
    names = {cell["cell"]: f"{cell['series']}@{cell['nfe']}" for cell in cells}
    out = [
        f"Drawn until decided, at most {stop['max_samples']:,} samples a cell: {sum(drawn):,} samples in {len(drawn)} "
        f"cells, {min(drawn):,} to {max(drawn):,} each."
    ]
    for record in group:
        for other, bound in record["undecided"].items():
            if other in names:
                pair = f"{names[record['cell']]} and {names[other]}"
                out.append(f"{pair}: undecided after {record['n']:,}, |difference| <= {digits(bound)}.")
    return out


def _plain(number: float) -> float | None:
    return float(f"{number:.9g}") if math.isfinite(number) else None
