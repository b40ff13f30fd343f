"""Panels of runs that differ by their seed alone."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from denoiselab.app.config.settings import Config
from denoiselab.app.runs.names import ASIDE, overrides_of
from denoiselab.cleaning import aligned, line
from denoiselab.evaluation.report.tables import digits
from denoiselab.evaluation.store import Store
from denoiselab.evaluation.trainings import panel_of

PANELS = "panels.json"

# What a training does not depend on, and its seed.
_ASIDE = ("seed", "name", "paths", "evaluation", "logger", "traceback")


def panels(named: Mapping[str, Path], level: float = 0.05) -> list[Config]:
    """The panel of each set of runs that differ by their seed alone: their names as `runs`, as `what` their options.

    Args:
        named: Name to directory.
        level: As of `panel_of`, which says what else a panel has.
    """
    out = []
    for seeds in _by_training(named):
        names = [seeds[seed] for seed in sorted(seeds)]
        panel = panel_of([Store(named[name]) for name in names], level) if len(names) > 1 else None
        if panel is not None:
            out.append({"runs": names, "seeds": sorted(seeds), **panel})
    return [{"what": what, **panel} for what, panel in zip(_told_apart(out, named), out, strict=True)]


def _by_training(named: Mapping[str, Path]) -> list[dict[int, str]]:
    """Sets of runs that differ by their seed alone, seed to name."""
    groups: dict[str, dict[int, str]] = {}
    for name, directory in named.items():
        config = config_of(directory)
        if isinstance(seed := config.get("seed"), int):
            own = {key: value for key, value in config.items() if key not in _ASIDE}
            groups.setdefault(json.dumps(own, sort_keys=True, default=str), {}).setdefault(seed, name)
    return [*groups.values()]


def table(found: Sequence[Config]) -> str:
    """A table of panels, and a sentence on each difference; nothing without any."""
    if not found:
        return ""
    several = len(found) > 1
    seeds = "" if several else f" (seed {', '.join(map(str, found[0]['seeds']))})"
    count = "trainings that differ by their seed" if several else f"{found[0]['trainings']} trainings{seeds}"
    title = f"{count}, {1 - found[0]['level']:.0%} t intervals over trainings"
    heads, lines, said = rows(found[0])[0], [], []
    for panel in found:
        whose = f"{panel['what']} (seed {', '.join(map(str, panel['seeds']))})" if several else ""
        lines += [[*([whose] if several else []), *row] for row in rows(panel)[1:]]
        said += [f"{whose}: {text}" if several else text for text in sentences(panel)]
    whole = [["trainings", *heads] if several else heads, *lines]
    return "\n".join([line(title), aligned(whole, left=2 if several else 1), *map(line, said)])


def _told_apart(found: Sequence[Config], named: Mapping[str, Path]) -> list[str]:
    """The options of the command line that the runs of a panel share and those of other panels do not."""
    given = [[overrides_of(named[name]) for name in panel["runs"]] for panel in found]
    shared = [[word for word in own[0] if all(word in other for other in own)] for own in given]
    everywhere = set.intersection(*map(set, shared)) if len(shared) > 1 else set()
    texts = [
        " ".join(word for word in words if word not in everywhere and not word.startswith((*ASIDE, "seed=")))
        for words in shared
    ]
    return [textwrap.shorten(text, 60, placeholder=" ...") or "no options" for text in texts]


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
    unlike = [[*seeds.values()] for seeds in _by_training(named) if len(seeds) > 1 and not among & {*seeds.values()}]
    among |= {name for names in unlike for name in names}
    rest = [name for name in named if name not in among]
    said = [
        f"{', '.join(names)}: differ by their seed, but have no cell of one protocol and n in common"
        for names in unlike
    ]
    text = "one training each, so differences between them are not apart from those between seeds of training: "
    return [line(one) for one in [*said, *([text + ", ".join(rest)] if rest else [])]]
