"""The verdicts of a frontier on W&B: a table, and a chart of differences from the best with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from denoiselab.evaluation.report.verdicts import VERDICTS as FILE
from denoiselab.files import read_json

# As `frontier_chart`: W&B keeps the table as <VERDICTS>_table, for charts of all selected runs.
VERDICTS = "frontier_verdicts"
FIELDS = {"label": "label", "value": "difference"}
# A chart that W&B has without a preset; it shows no intervals.
BAR = "wandb/bar/v0"

COLUMNS = (
    "label", "metric", "n", "at", "budget", "series", "nfe", "value", "difference", "low", "high", "verdict", "than",
    "paired", "level", "trainings", "cell",
)  # fmt: skip


def preset_of(chart: str) -> str:
    """Name of the preset of differences, beside that of the frontier's chart."""
    return f"{chart}_differences"


def rows(directory: Path) -> list[list[Any]]:
    """Rows of the table from `verdicts.json`; none if it is missing or damaged.

    At each number of calls they are the best cell and the others of that budget. `difference` is the value less that of
    the best, and `low` to `high` its interval, simultaneous for all pairs; null without a standard error. `verdict` is
    "best", "tie" or "surely worse", wrong anywhere with probability `level` at most; with 1 of `trainings` it is about
    that model alone. `than` is the first cell of the budget that is surely better than one that is surely worse.
    """
    try:
        content = read_json(directory / FILE)
    except (OSError, ValueError):
        return []
    return [
        [row.get(column) for column in COLUMNS]
        for group in content.get("groups", ())
        if group["primary"]
        for budget in group["budgets"]
        for row in _budget(group, budget)
    ]


def _budget(group: Mapping[str, Any], budget: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    pairs = {(pair["a"], pair["b"]): pair for pair in group["pairs"]}
    best = budget["best"]
    ties, worse = dict.fromkeys(budget["ties"], "tie"), dict.fromkeys(budget["surely_worse"], "surely worse")
    said = {best: "best", **ties, **worse}

    def behind(place: int, other: int) -> bool:
        pair = pairs.get((min(place, other), max(place, other)), {})
        return bool(pair.get("verdict") == ("worse" if place < other else "better"))

    for place, verdict in said.items():
        cell = group["cells"][place]
        pair = pairs.get((min(place, best), max(place, best)), {})
        difference = cell["value"] - group["cells"][best]["value"]
        half = 0.0 if place == best else pair.get("half_width")
        yield {
            **{key: group[key] for key in ("metric", "n", "at")},
            **{key: group.get(key) for key in ("level", "trainings")},
            **{key: cell[key] for key in ("series", "nfe", "value", "cell")},
            "label": f"NFE {budget['nfe']}: {cell['series']}",
            "budget": budget["nfe"],
            "difference": difference,
            "low": None if half is None else difference - half,
            "high": None if half is None else difference + half,
            "verdict": verdict,
            "than": next((group["cells"][k]["series"] for k in said if place in worse and behind(place, k)), None),
            "paired": pair.get("paired"),
        }


def chart_spec() -> dict[str, Any]:
    """The Vega-Lite specification of the chart: a point a cell of a budget, with the interval of its difference."""
    label = {"field": "${field:label}", "type": "nominal", "title": None, "sort": None}
    colors = {"domain": ["best", "tie", "surely worse"], "range": ["#1a7f37", "#d4a72c", "#8c959f"]}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "description": "Difference from the best at each number of calls, with an interval that holds for all pairs.",
        "data": {"name": "wandb"},
        "transform": [{"calculate": "datum.name + ' ' + datum['${field:label}']", "as": "line"}],
        "encoding": {
            "y": {**label, "field": "line"},
            "color": {"field": "verdict", "type": "nominal", "scale": colors, "title": "verdict"},
        },
        "layer": [
            {
                "mark": {"type": "rule"},
                "encoding": {
                    "x": {"field": "low", "type": "quantitative", "title": "value less that of the best"},
                    "x2": {"field": "high"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 60, "tooltip": {"content": "data"}},
                "encoding": {"x": {"field": "${field:value}", "type": "quantitative"}},
            },
        ],
    }
