"""The summary of a sweep: `sweep.csv`, and the table at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from denoiselab.app.config import overrides
from denoiselab.app.runs.names import SWEEP
from denoiselab.app.runs.run_id import run_id
from denoiselab.app.sweeps.records import Sweep
from denoiselab.cleaning import aligned
from denoiselab.console import console
from denoiselab.files import write_csv


class SweepTable(Callback):
    """Hydra callback that writes `sweep.json` before the first job of a multirun, and `sweep.csv` after each."""

    started: Path | None = None  # the sweep that this process has started, whose table is printed at the end

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the record of the sweep."""
        given = [*config.hydra.overrides.task]
        jobs = overrides.jobs(kwargs["config_name"], given, multirun=True)
        other = any(text.startswith("hydra/sweeper=") for text in config.hydra.overrides.hydra)
        type(self).started = Path(config.hydra.sweep.dir)
        Sweep(
            directory=Path(config.hydra.sweep.dir),
            id=run_id(),
            launcher=str(config.hydra.launcher._target_).rpartition(".")[2],
            swept=tuple(overrides.swept_keys(given, jobs)),
            metric=config.optimized_metric,
            command=tuple(sys.argv),
            planned={} if other else dict(enumerate(map(tuple, jobs))),
        ).write()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the table after a job of a multirun."""
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN":
            write_table(Sweep.read(Path(config.hydra.sweep.dir)))

    @classmethod
    def finish(cls) -> None:
        """Write and print the table of the sweep that this process has started, if there is one."""
        if cls.started is not None:
            sweep = Sweep.read(cls.started)
            cls.started = None
            write_table(sweep)
            print_table(sweep)


def write_table(sweep: Sweep) -> None:
    """Write `sweep.csv`, a row a job."""
    rows = [
        {
            "job": job.number,
            "overrides": " ".join(job.overrides),
            "status": job.status,
            "best_score": "" if job.value is None else job.value,
            "optimized_metric": sweep.metric,
            "error": job.error or "",
            "directory": str(job.directory),
        }
        for job in sweep.jobs
    ]
    write_csv(sweep.directory / SWEEP, rows)


def print_table(sweep: Sweep) -> None:
    """Print the jobs, with the overrides that are swept."""
    out = console()
    table = [["job", "overrides", "status", "best score", "error"]]
    for job in sweep.jobs:
        score = "" if job.value is None else f"{job.value:.3f}"
        table.append([str(job.number), " ".join(sweep.own(job)), job.status, score, job.error or ""])
    out.print(aligned(table, left=5))
    out.print(f"best score: {sweep.metric} of each job, lower is better: {sweep.directory}")
