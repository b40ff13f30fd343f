"""Panels of runs that differ by their seed alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from denoiselab.app.config.settings import Config
from denoiselab.cleaning import aligned, line
from denoiselab.evaluation.report.tables import digits
from denoiselab.evaluation.store import Store
from denoiselab.evaluation.trainings import panel_of

PANELS = "panels.json"

# What a training does not depend on, and its seed.
_ASIDE = ("seed", "name", "paths", "evaluation", "logger", "traceback")


def panels(named: Mapping[str, Path], level: float = 0.05) -> list[Config]:
    """The panel of each set of runs that differ by their seed alone, with their names as `runs`; see `panel_of`.

    Args:
        named: Name to directory.
        level: As of `panel_of`.
    """
    groups: dict[str, dict[int, str]] = {}
    for name, directory in named.items():
        config = config_of(directory)
        if isinstance(seed := config.get("seed"), int):
            own = {key: value for key, value in config.items() if key not in _ASIDE}
            groups.setdefault(json.dumps(own, sort_keys=True, default=str), {}).setdefault(seed, name)
    out = []
    for seeds in groups.values():
        names = [seeds[seed] for seed in sorted(seeds)]
        panel = panel_of([Store(named[name]) for name in names], level) if len(names) > 1 else None
        if panel is not None:
            out.append({"runs": names, "seeds": sorted(seeds), **panel})
    return out


def table(panel: Config) -> str:
    """A table of a panel, and a sentence on each difference."""
    seeds = ", ".join(map(str, panel["seeds"]))
    title = f"{panel['trainings']} trainings (seed {seeds}), {1 - panel['level']:.0%} t intervals over trainings"
    return "\n".join([line(title), aligned(rows(panel)), *map(line, sentences(panel))])


def rows(panel: Config) -> list[list[str]]:
    """Heads, and a row a cell."""
    heads = ["cell", "metric", "n", "mean", "interval", "sd of training", "sd of draws"]
    cells = [
        [
            _name(row), row["metric"], str(row["n"]), digits(row["mean"]), _interval(row),
            _digits(row["training_sd"]), _digits(row["draw_sd"]),
        ]
        for row in panel["cells"]
    ]  # fmt: skip
    return [heads, *cells]


def sentences(panel: Config) -> list[str]:
    """What a panel says about each difference of two samplers at one number of network calls, and cells left out."""
    left_out = [f"{_name(one)} is left out: {one['why']}." for one in panel["left_out"]]
    return [*(_sentence(one) for one in panel["differences"]), *left_out]


def _sentence(one: Config) -> str:
    a, b = _name(one["best"]), _name(one["other"])
    text = f"{b} less {a}: {digits(one['mean'])}, interval {_interval(one)}: "
    if one["sure"]:
        return text + "sure over trainings"
    needed = one["seeds_needed"]
    return text + (
        "undecided" if needed is None else f"undecided; some {needed:,} seeds would show a difference of this size"
    )


def _name(cell: Mapping[str, Any]) -> str:
    return f"{' '.join(filter(None, [cell['sampler'], cell['guided']]))}@{cell['nfe']:g}"


def _interval(row: Mapping[str, Any]) -> str:
    return f"[{', '.join(map(digits, row['interval']))}]"


def _digits(value: float | None) -> str:
    return "" if value is None else digits(value)


def config_of(directory: Path) -> Config:
    """The configuration of a run; empty if it cannot be read."""
    try:
        config = OmegaConf.to_container(OmegaConf.load(directory / "config.yaml"))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return {}
    return {str(key): value for key, value in config.items()} if isinstance(config, dict) else {}


def alone(named: Mapping[str, Path], found: Sequence[Config]) -> list[str]:
    """A sentence on the runs that are in no panel; none if all are."""
    among = {name for panel in found for name in panel["runs"]}
    rest = [name for name in named if name not in among]
    if not rest:
        return []
    text = "one training each, so differences between them are not apart from those between seeds of training: "
    return [line(text + ", ".join(rest))]
