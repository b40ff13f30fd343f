"""The summary of a sweep: the best job, the table, the picture and the page, of the records of its jobs alone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denoiselab.app.config.spelling import override
from denoiselab.app.runs import panel
from denoiselab.app.runs.names import SWEEP
from denoiselab.app.sweeps.records import Sweep
from denoiselab.app.sweeps.tracking import send
from denoiselab.console import console
from denoiselab.evaluation.report import sweep_texts as texts
from denoiselab.evaluation.report.sweep_page import PAGE, write_page
from denoiselab.evaluation.report.sweep_picture import NAME, write_picture
from denoiselab.evaluation.report.sweep_ranking import Ranking, job, ranking
from denoiselab.files import write_csv

LEVEL = 0.05

# Launchers with a queue of their own, from which a sweep goes on.
_QUEUES = ("processes", "slurm")


def ranked(sweep: Sweep, level: float = LEVEL) -> Ranking:
    """The jobs of a sweep in order."""
    jobs = [job(str(one.number), vars(one)) for one in sweep.jobs]
    return ranking(jobs, sweep.metric, sweep.swept, level)


def write_table(sweep: Sweep, found: Ranking | None = None, folder: Path | None = None) -> None:
    """Write `sweep.csv`, a row a job, by number."""
    rows = sorted(texts.rows(found or ranked(sweep)), key=lambda row: int(row["job"]))
    places = {str(one.number): str(one.directory) for one in sweep.jobs}
    write_csv((folder or sweep.directory) / SWEEP, [{**row, "directory": places[row["job"]]} for row in rows])


def summarise(sweep: Sweep, level: float = LEVEL, folder: Path | None = None, *, track: bool = True) -> Ranking:
    """Write table, picture and page, print the table, and send it to W&B if the jobs use it.

    Args:
        sweep: As it is now.
        level: Probability that an interval is wrong.
        folder: For the files; None for the sweep's own.
        track: Whether W&B gets it.
    """
    place, found, out = folder or sweep.directory, ranked(sweep, level), console()
    place.mkdir(parents=True, exist_ok=True)
    write_table(sweep, found, place)
    if found.jobs:
        write_picture(place / NAME, found)
    links = {str(one.number): one.directory / "frontier.html" for one in sweep.jobs}
    there = {number: os.path.relpath(path, place) for number, path in links.items() if path.is_file()}
    write_page(place / PAGE, found, there, commands(sweep, found), _panels(sweep, found, level))
    out.print(texts.table(found))
    for text in texts.sentences(found):
        out.print(text)
    for name, kind in ((PAGE, "page"), (NAME, "picture"), (SWEEP, "table")):
        out.print(f"{kind:>7}: {place / name}")
    if track and found.jobs:
        send(sweep, found, place)
    return found


def commands(sweep: Sweep, found: Ranking) -> list[str]:
    """What to do next, for a shell: score the best job anew, run again what is not done."""
    out = []
    if found.best is not None:
        directory = sweep.directory / found.best.number
        out.append(f"python sample.py {override('ckpt', directory)}")
        if (directory / "frontier.json").is_file():
            out.append(f"python sample.py task=frontier {override('ckpt', directory)} task.seed=1")
    if any(not one.finished for one in sweep.jobs):
        if sweep.launcher in _QUEUES:
            out.append(sweep.resuming)
        else:
            given = [word for word in sweep.command[1:] if not word.startswith("hydra.sweep.dir=")]
            out.append(f"{shlex.join(['python', 'train.py', *given])} {override('hydra.sweep.dir', sweep.directory)}")
    return out


def _panels(sweep: Sweep, found: Ranking, level: float) -> list[Mapping[str, Any]]:
    """Scores of cells over trainings, for the page, where seeds are swept."""
    if not found.over_seeds:
        return []
    own = [name for name in found.options if name != "seed"]
    named = {
        f"{texts.options_text(one.shown(own))} seed={one.options.get('seed', '')}".strip(): directory
        for one in found.jobs
        if one.final and ((directory := sweep.directory / one.number) / "frontier.json").is_file()
    }
    return [_shown(one) for one in panel.panels(named, level)]


def _shown(one: Mapping[str, Any]) -> dict[str, Any]:
    runs: Sequence[str] = one["runs"]
    method = runs[0].rpartition(" seed=")[0]
    heads, *rows = panel.rows(dict(one))
    title = f"{method + ': ' if method else ''}seeds {', '.join(map(str, one['seeds']))}"
    return {"title": title, "heads": heads, "rows": rows, "sentences": panel.sentences(dict(one))}
