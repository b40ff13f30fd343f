"""The outcome of a sweep: its jobs sorted by value, the best one on top, over seeds where these were swept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import torch

from denoiselab.evaluation.verdicts.panel import nested, seeds_needed

DONE = "done"
SEED = "seed"

# Options of paths and output, in which jobs do not differ as methods.
_ASIDE = ("paths.", "hydra", "name", "logger", "traceback")


class Job(NamedTuple):
    """A job of a sweep, as its own folder has it.

    Attributes:
        number: Name of its folder in that of the sweep.
        options: Dotted name to value, both as text, of all its overrides.
        status: done, failed, stopped, pruned, running or waiting.
        value: Less is better; None without one.
        cell: The cell of the frontier that has the value: sampler, nfe, weights, guidance; None without one.
        n: Samples of that cell.
        images_seen: Of its training.
        seconds: From its start to its end; None if it has not ended.
        error: Why it is not done, as one sentence.
    """

    number: str
    options: Mapping[str, str]
    status: str
    value: float | None = None
    cell: Mapping[str, Any] | None = None
    n: int | None = None
    images_seen: int | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def final(self) -> bool:
        """Whether it is done and has a value."""
        return self.status == DONE and self.value is not None

    def shown(self, names: Sequence[str]) -> dict[str, str]:
        """Those of its options that have one of these names."""
        return {name: self.options[name] for name in names if name in self.options}


class Group(NamedTuple):
    """The jobs that differ by their seed alone; a single job where seeds are not swept.

    Attributes:
        options: Swept ones without the seed.
        jobs: Those with a value, the best first.
        asked: Jobs of these options in all.
        mean: Of the values.
        interval: Of the mean over trainings, a t interval; None of a single value.
        verdict: "best", "surely worse", "undecided", or "" where one training each tells nothing about seeds.
        seeds_needed: Seeds that would show a difference of this size from the best; None if it is not known.
    """

    options: Mapping[str, str]
    jobs: Sequence[Job]
    asked: int
    mean: float
    interval: tuple[float, float] | None
    verdict: str = ""
    seeds_needed: int | None = None


class Ranking(NamedTuple):
    """A sweep in order.

    Attributes:
        metric: What the value is, such as `frontier/best`.
        options: Names of the swept options.
        jobs: The best first, then those without a final value by their number.
        groups: The best first; of jobs with a final value alone.
        level: Probability that an interval is wrong.
    """

    metric: str
    options: Sequence[str]
    jobs: Sequence[Job]
    groups: Sequence[Group]
    level: float = 0.05

    @property
    def over_seeds(self) -> bool:
        """Whether some group has several trainings."""
        return any(len(group.jobs) > 1 for group in self.groups)

    @property
    def ranked(self) -> int:
        """The number of jobs with a final value."""
        return sum(len(group.jobs) for group in self.groups)

    @property
    def best(self) -> Job | None:
        """The best job of the best group; None if no job has a value."""
        return self.groups[0].jobs[0] if self.groups else None


def job(number: str, result: Mapping[str, Any]) -> Job:
    """A job from its `result.json`; what is not of the type that it should be counts as missing."""
    options = {}
    for text in result.get("overrides") or ():
        name, _, value = str(text).partition("=")
        options[name.lstrip("+")] = value
    cell = result.get("cell")
    return Job(
        number,
        options,
        str(result.get("status") or "waiting"),
        _number(result.get("value")),
        cell if isinstance(cell, Mapping) else None,
        _whole(result.get("n")),
        _whole(result.get("images_seen")),
        _seconds(result.get("started"), result.get("ended")),
        str(result["error"]) if result.get("error") else None,
    )


def ranking(jobs: Iterable[Job], metric: str, swept: Sequence[str] = (), level: float = 0.05) -> Ranking:
    """Sort a sweep.

    Args:
        jobs: All of them.
        metric: What the value is.
        swept: Names of options to show even where all jobs have one value.
        level: Probability that an interval of a mean, or any of those of differences from the best, is wrong.
    """
    listed = sorted(jobs, key=_order)
    names = list(dict.fromkeys([*swept, *(name for one in listed for name in one.options)]))
    differ = [name for name in names if len({one.options.get(name) for one in listed}) > 1]
    options = [name for name in names if name in swept or (name in differ and not name.startswith(_ASIDE))]
    return Ranking(metric, options, listed, _groups(listed, options, level), level)


def _groups(jobs: Sequence[Job], options: Sequence[str], level: float) -> list[Group]:
    own = [name for name in options if name != SEED]
    found: dict[tuple[str | None, ...], list[Job]] = {}
    for one in jobs:
        found.setdefault(tuple(one.options.get(name) for name in own), []).append(one)
    out = []
    for asked in found.values():
        final = [one for one in asked if one.final]
        if not final:
            continue
        values = torch.tensor([one.value for one in final], dtype=torch.float64)
        interval = nested(values).interval(level) if len(values) > 1 else None
        out.append(Group(asked[0].shown(own), final, len(asked), float(values.mean()), interval))
    out.sort(key=lambda group: group.mean)
    if len(out) < 2 or not any(len(group.jobs) > 1 for group in out):
        return out
    pairs = math.comb(len(out), 2)  # the best is chosen by the same values
    return [out[0]._replace(verdict="best"), *(_judged(group, out[0], level / pairs) for group in out[1:])]


def _judged(group: Group, best: Group, level: float) -> Group:
    """A group against the best one, by the seeds that both have."""
    ours, theirs = ({one.options.get(SEED): one.value for one in two.jobs} for two in (group, best))
    differences = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]  # type: ignore[operator]
    if len(differences) < 2:
        return group
    panel = nested(torch.tensor(differences, dtype=torch.float64))
    low, high = panel.interval(level)
    if not low <= 0 <= high:
        return group._replace(verdict="surely worse" if low > 0 else "undecided")
    return group._replace(
        verdict="undecided", seeds_needed=seeds_needed(panel.mean / panel.spread, level=level) if panel.spread else None
    )


def _order(one: Job) -> tuple[bool, float, int, str]:
    """Final values first, by value; a pruned job has one of less training."""
    number = int(one.number) if one.number.isdecimal() else 10**9
    return not one.final, one.value if one.final and one.value is not None else 0.0, number, one.number


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(started: Any, ended: Any) -> float | None:
    try:
        first, last = (datetime.fromisoformat(str(one)) for one in (started, ended))
        return max(0.0, (last - first).total_seconds())
    except (TypeError, ValueError):
        return None
