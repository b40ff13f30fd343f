"""A sweep as text: the table on the screen, sentences on the best job and on what is not done, rows of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from denoiselab.cleaning import aligned, line
from denoiselab.evaluation.records import guidance_text
from denoiselab.evaluation.report.sweep_ranking import DONE, SEED, Group, Job, Ranking
from denoiselab.evaluation.report.tables import digits


def table(ranked: Ranking) -> str:
    """For the screen: groups of seeds, if there are any, then jobs, the best first."""
    groups = [aligned(group_rows(ranked), left=len(_methods(ranked)))] if ranked.over_seeds else []
    return "\n\n".join([*groups, aligned(job_rows(ranked), left=1 + len(ranked.options))])


def group_rows(ranked: Ranking) -> list[list[str]]:
    """Heads, and a row a group of seeds."""
    own = _methods(ranked)
    out = [[*own, "seeds", f"mean {ranked.metric}", f"{1 - ranked.level:.0%} interval", "verdict"]]
    for group in ranked.groups:
        seeds = f"{len(group.jobs)}" + ("" if len(group.jobs) == group.asked else f" of {group.asked}")
        shown = [group.options.get(name, "") for name in own]
        out.append([*shown, seeds, digits(group.mean), interval_text(group), verdict_text(group)])
    return out


def job_rows(ranked: Ranking) -> list[list[str]]:
    """Heads, and a row a job."""
    out = [["job", *ranked.options, ranked.metric, "by", "time", "status"]]
    for one in ranked.jobs:
        value = "" if one.value is None else digits(one.value)
        shown = [one.options.get(name, "") for name in ranked.options]
        out.append([one.number, *shown, value, cell_text(one), time_text(one.seconds), one.status])
    return out


def _methods(ranked: Ranking) -> list[str]:
    """The swept options without the seed."""
    return [name for name in ranked.options if name != SEED]


def sentences(ranked: Ranking) -> list[str]:
    """The best job, what is known of the others, and why jobs are not done."""
    return [*map(line, (headline(ranked), *remarks(ranked), *reasons(ranked)))]


def headline(ranked: Ranking) -> str:
    """The best options, with their value and the cell that has it."""
    if ranked.best is None:
        return f"no job of {len(ranked.jobs)} has a value."
    group, best = ranked.groups[0], ranked.best
    value = f"{ranked.metric} {digits(group.mean)}"
    if group.interval is not None:
        value += f" in the mean over {len(group.jobs)} seeds, {1 - ranked.level:.0%} interval {interval_text(group)}"
    by = f" by {text}" if (text := cell_text(best)) else ""
    return f"best: {options_text(group.options) or 'all options equal'}: {value}{by} (job {best.number})"


def remarks(ranked: Ranking) -> list[str]:
    """What the order of the groups is worth."""
    out = []
    compared = [group for group in ranked.groups[1:] if group.verdict]
    if compared:
        sure = sum(group.verdict == "surely worse" for group in compared)
        text = f"{sure} of {len(ranked.groups) - 1} others are surely worse over seeds"
        near = next((group for group in compared if group.verdict == "undecided"), None)
        if near is not None:
            needed = "" if near.seeds_needed is None else f" (some {near.seeds_needed:,} seeds would show it)"
            text += f"; the nearest that is not is {options_text(near.options)}, {digits(near.mean)}{needed}"
        out.append(f"{text}.")
    elif len(ranked.groups) > 1:
        out.append(
            "one training each, so these differences are not apart from those between seeds; add seed=0,1,2. The best "
            "of several looks better than it is: score it anew on fresh samples, task=frontier task.seed=1."
        )
    if ranked.over_seeds and any(one.status == "pruned" for one in ranked.jobs):
        out.append("means over seeds leave out pruned jobs, which were worse: those of options with some are too low.")
    if ranked.over_seeds:
        out.append(
            "intervals and verdicts are about seeds of training, on the samples' noise that these jobs share; the page "
            "has those of each sampler over both."
        )
    return out


def reasons(ranked: Ranking) -> list[str]:
    """A sentence on each job that is not done, and on each that is without a value."""
    out = []
    for one in ranked.jobs:
        if not one.final:
            swept = one.shown(ranked.options)
            why = one.error or ("it has no value" if one.status == DONE else "")
            text = f"job {one.number} is {one.status}{f' ({options_text(swept)})' if swept else ''}"
            out.append(f"{text}: {why}" if why else text)
    return out


def rows(ranked: Ranking) -> list[dict[str, Any]]:
    """A row a job, for a file."""
    return [
        {
            "rank": place if one.final else "",
            "job": one.number,
            **{name: one.options.get(name, "") for name in ranked.options},
            "status": one.status,
            "best_score": "" if one.value is None else one.value,
            "optimized_metric": ranked.metric,
            **{name: _plain((one.cell or {}).get(name)) for name in ("sampler", "nfe", "weights", "guidance")},
            "n": _plain(one.n),
            "images_seen": _plain(one.images_seen),
            "seconds": "" if one.seconds is None else round(one.seconds, 1),
            "error": one.error or "",
            "overrides": options_text(one.options),
        }
        for place, one in enumerate(ranked.jobs, 1)
    ]


def options_text(options: Mapping[str, str]) -> str:
    """Options as they are given."""
    return " ".join(f"{name}={value}" for name, value in options.items())


def cell_text(one: Job) -> str:
    """The cell that has a job's value, in short: `ddim@10 ema scale=2`."""
    cell = one.cell or {}
    if not cell.get("sampler"):
        return ""
    calls = f"@{cell['nfe']:g}" if isinstance(cell.get("nfe"), (int, float)) else ""
    words = [f"{cell['sampler']}{calls}", str(cell.get("weights") or "")]
    scale = cell.get("guidance")
    if scale is None or isinstance(scale, (int, float)):
        guider = cell.get("guider")
        words.append(guidance_text({"guidance": scale, "guider": guider if isinstance(guider, Mapping) else None}))
    return " ".join(filter(None, words))


def interval_text(group: Group) -> str:
    """The interval of a group's mean; empty without one."""
    return "" if group.interval is None else f"[{', '.join(map(digits, group.interval))}]"


def verdict_text(group: Group) -> str:
    """The verdict on a group, with the seeds that would decide it."""
    needed = "" if group.seeds_needed is None else f", some {group.seeds_needed:,} seeds needed"
    return f"{group.verdict}{needed}"


def time_text(seconds: float | None) -> str:
    """A duration, `1:02:03` or `2:03`; empty if it is not known."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _plain(value: Any) -> Any:
    return "" if value is None else value
