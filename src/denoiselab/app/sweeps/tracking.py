"""The summary of a sweep on W&B: a run of its own in the group of the jobs' runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from denoiselab.app.runs.panel import config_of
from denoiselab.app.sweeps.records import Sweep
from denoiselab.evaluation.report import sweep_texts as texts
from denoiselab.evaluation.report.sweep_picture import NAME
from denoiselab.evaluation.report.sweep_ranking import Ranking
from denoiselab.nodes.instantiate import construct

if TYPE_CHECKING:
    from denoiselab.training.loggers import WandB  # imports Lightning

TABLE = "sweep_jobs"
JOB_TYPE = "sweep"


def send(sweep: Sweep, found: Ranking, folder: Path) -> None:
    """Log the jobs as a table, the picture, and the best job, in a run `<sweep's id>-summary`, if the jobs use W&B.

    Args:
        sweep: Whose jobs share a group.
        found: Its jobs in order.
        folder: With the picture.
    """
    tracker = _tracker(sweep)
    if tracker is None:
        return
    config = {
        "metric": sweep.metric,
        "swept": [*found.options],
        "command": [*sweep.command],
        "launcher": sweep.launcher,
    }
    run = tracker.open(
        sweep.directory, f"{sweep.id}-summary", f"sweep {sweep.id}", config, group=sweep.id, job_type=JOB_TYPE
    )
    rows = texts.rows(found)
    columns: list[str | int] = [*rows[0]]
    cells = [[None if value == "" else value for value in row.values()] for row in rows]
    best = found.best

    def log(opened: Any) -> None:
        import wandb  # slow to import

        # Options are texts, and W&B's columns have one type each.
        opened.log({TABLE: wandb.Table(columns, cells, allow_mixed_types=True)})
        if (folder / NAME).is_file():
            opened.log({"sweep_picture": wandb.Image(str(folder / NAME))})
        done = sum(one.final for one in found.jobs)
        summary: dict[str, Any] = {"sweep/jobs": len(found.jobs), "sweep/done": done}
        if best is not None:
            shown = {f"sweep/best/{name}": value for name, value in best.shown(found.options).items()}
            summary |= {"sweep/best_value": best.value, "sweep/best_job": best.number, **shown}
            summary["sweep/best_cell"] = texts.cell_text(best)
        opened.summary.update(summary)

    run.do(log)
    run.close(0)


def _tracker(sweep: Sweep) -> WandB | None:
    """W&B as the first job that has been started has it."""
    node = next((node for one in sweep.jobs if (node := config_of(one.directory).get("logger"))), None)
    if not isinstance(node, dict):
        return None
    from denoiselab.training.loggers import WandB  # imports Lightning

    try:
        made = construct(node, "logger")
    except ValueError as error:
        warnings.warn(f"the summary of the sweep is not sent: {error}", stacklevel=2)
        return None
    return next((one for one in made.values() if isinstance(one, WandB)), None)
