"""Comparisons of the stored cells of a frontier."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from denoiselab.evaluation.contracts import INFINITY, Influences
from denoiselab.evaluation.records import Record, comparable, evaluations, finished
from denoiselab.evaluation.verdicts.compare import Comparison, Estimate, compare
from denoiselab.evaluation.verdicts.decided import decided_comparison

# The influences of a record's scores, by metric.
Kept = Callable[[Record], Mapping[str, Influences]]

LEVEL = 0.05


def groups(records: Iterable[Record]) -> list[list[Record]]:
    """The finished records whose scores can be compared, and that were scored by the same code, together."""
    out: dict[tuple[Any, ...], list[Record]] = {}
    for record in finished(records):
        out.setdefault((record.get("other_code"), *comparable(record)), []).append(record)
    return [*out.values()]


def comparison(
    group: Sequence[Record], kept: Kept, metric: str | None = None, level: float = LEVEL, seed: int = 0
) -> Comparison:
    """The comparison of cells by a metric; their names are those of `Record`'s `cell`, and costs network evaluations.

    Args:
        group: One of `groups`.
        kept: Influences of a record.
        metric: None for the primary one.
        level: Probability of any wrong verdict.
        seed: Of the draws for critical values.
    """
    if group[0].get("stop"):
        return decided_comparison(group)
    return compare([estimate(record, kept(record), metric or record["metric"]) for record in group], level, seed)


def estimate(record: Record, influences: Mapping[str, Influences], metric: str) -> Estimate:
    """A score of a finished record.

    Args:
        record: Of the cell.
        influences: Of its scores, by metric; those of another number of samples are not used.
        metric: A value at infinity has the influences of the value at n, to first order.
    """
    scores = record.get("scores") or {}
    primary = {"value": record["score"], "standard_error": record.get("standard_error")}
    at_n, infinite = scores.get(metric, primary), scores.get(metric + INFINITY, {})
    own = influences.get(metric.removesuffix(INFINITY))
    if own is not None and metric.endswith(INFINITY):
        own = replace(own, second=own.second[:0])
    return Estimate(
        str(record.get("cell")),
        at_n["value"],
        at_n["standard_error"],
        record["n"],
        own if own is not None and own.n == record["n"] else None,
        bool(at_n.get("lower_is_better", True)),
        evaluations(record),
        infinite.get("value"),
        infinite.get("standard_error"),
    )


def mark_pareto(
    records: Sequence[Record],
    kept: Kept = lambda record: {},
    changed: Collection[str] | None = None,
    level: float = LEVEL,
) -> None:
    """Set `pareto` of each record: whether no comparable cell of no greater cost is surely better; see `Comparison`.

    The cost is the number of network evaluations a sample, those of a guide too; a call under guidance makes two. A
    record states another level than 0.05 as `pareto_level`.

    Args:
        records: Of cells.
        kept: Influences of a record.
        changed: The `cell`s that were added or changed since the others were marked; None for all.
        level: Probability of any wrong mark; decided cells have their own.
    """
    touched = {comparable(record) for record in records if changed is None or record["cell"] in changed}
    among = [record for record in records if comparable(record) in touched]
    for record in among:
        record["pareto"] = False
        record.pop("pareto_level", None)
        record |= {} if level == LEVEL else {"pareto_level": level}
    for group in groups(among):
        for record, mark in zip(group, comparison(group, kept, level=level).pareto(), strict=True):
            record["pareto"] = mark


def standings(records: Sequence[Record], kept: Kept, level: float = LEVEL) -> dict[str, str]:
    """How sure each finished cell's place on the frontier is, by `cell`; see `Comparison.standings`."""
    return {
        record["cell"]: standing
        for group in groups(records)
        for record, standing in zip(group, comparison(group, kept, level=level).standings(), strict=True)
    }
