"""The best cells of a frontier within a budget of calls, evaluations, time or operations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from denoiselab.evaluation.records import Record, evaluations
from denoiselab.evaluation.report.tables import by_series, digits
from denoiselab.evaluation.report.verdicts import than
from denoiselab.evaluation.store import Store
from denoiselab.evaluation.verdicts.frontiers import LEVEL, comparison, groups

# Unit to the field of a record, and how many of the field's are one of the unit.
_UNITS = {
    "calls": ("nfe", 1.0),
    "evaluations": ("network_evaluations", 1.0),
    "ms": ("ms_per_sample", 1.0),
    "GFLOPs": ("flops_per_sample", 1e9),
}
_FORM = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[a-z]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """A budget of a sample, such as `40ms`, `10calls`, `20evaluations` or `3.5GFLOPs`.

    Args:
        text: As it is written.

    Raises:
        ValueError: If it is none of these.
    """

    text: str

    def __post_init__(self) -> None:
        self._parts  # noqa: B018  # checked at once

    @property
    def _parts(self) -> tuple[str, str, float]:
        """Unit, field of a record, and the limit in the field's unit."""
        found = _FORM.fullmatch(self.text.strip())
        units = {unit.lower(): unit for unit in _UNITS}
        if found is None or found["unit"].lower() not in units or float(found["number"]) == 0:
            raise ValueError(
                f"best_under={self.text}: it must be a number above 0 and a unit: 40ms, 10calls, 20evaluations or "
                "3.5GFLOPs, of a sample."
            )
        unit = units[found["unit"].lower()]
        field, scale = _UNITS[unit]
        return unit, field, float(found["number"]) * scale

    def sentences(self, store: Store, records: Sequence[Record], level: float = LEVEL) -> list[str]:
        """For each set of comparable cells, the best one that costs at most the budget, and how sure that is.

        Of each series its best cell within the budget is compared.

        Args:
            store: Has the influences of the cells.
            records: All cells of the frontier.
            level: Probability of any wrong verdict.
        """
        unit, field, limit = self._parts
        series = {record["cell"]: name for name, rows in by_series(records).items() for record in rows}
        out = []
        for group in groups(records):
            missing = sum(record.get(field) is None for record in group)
            within: dict[str, int] = {}
            both = comparison(group, store.influences, level=level)
            sign = 1 if both.estimates[0].lower_is_better else -1
            for i, record in enumerate(group):
                name = series[record["cell"]]
                cost = _cost(record, field)
                if cost is not None and cost <= limit:
                    former = within.get(name)
                    if former is None or sign * both.value(i) < sign * both.value(former):
                        within[name] = i
            if within:
                best, ties, worse = both.best([*within.values()])
                named = [series[group[i]["cell"]] + f"@{group[i]['nfe']}" for i in range(len(group))]
                spent = (_cost(group[best], field) or 0.0) / _UNITS[unit][1]
                parts = [f"under {self.text}: {named[best]}, {digits(group[best]['score'])} ({spent:.3g} {unit})"]
                ranked = [best, *ties, *worse]
                behind = [named[i] + than(both, i, ranked, named.__getitem__) for i in worse]
                parts += [f"{what}: {', '.join(those)}" for what, those in
                          (("ties", [named[i] for i in ties]), ("surely worse", behind)) if those]  # fmt: skip
                out.append("; ".join(parts))
            else:
                out.append(f"under {self.text}: no cell of {group[0]['metric']} costs so little.")
            if missing:
                out.append(f"{missing} of {len(group)} cells have no {unit}: they were scored before it was measured.")
        return out


def _cost(record: Record, field: str) -> float | None:
    value: float | None = record.get(field)
    return evaluations(record) if field == "network_evaluations" and value is not None else value
