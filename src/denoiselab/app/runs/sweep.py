"""The summary of a multirun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from denoiselab.app.runs.names import SWEEP
from denoiselab.cleaning import aligned
from denoiselab.console import console
from denoiselab.files import write_csv


class SweepTable(Callback):
    """Hydra callback that writes `sweep.csv`, a row a job, and prints it at the end."""

    rows: list[dict[str, Any]] = []  # noqa: RUF012  # of this process; the last job may end by an exception

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Add the row of a job of a multirun."""
        if config.hydra.mode is None or config.hydra.mode.name != "MULTIRUN":
            return
        done = job_return.status is JobStatus.COMPLETED
        self.rows.append(
            {
                "job": config.hydra.job.num,
                "overrides": " ".join(job_return.overrides or ()),
                "status": "done" if done else "failed",
                "best_score": job_return.return_value if done else "",
                "optimized_metric": config.optimized_metric,
                "error": "" if done else " ".join(str(job_return._return_value).split()),
                "directory": str(Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)),
            }
        )
        write_csv(Path(config.hydra.sweep.dir) / SWEEP, self.rows)

    @classmethod
    def print(cls) -> None:
        """Print the rows, if there are any, with the overrides in which jobs differ."""
        if not cls.rows:
            return
        shared = set.intersection(*(set(row["overrides"].split(" ")) for row in cls.rows)) if cls.rows[1:] else set()
        out = console()
        table = [["job", "overrides", "status", "best score", "error"]]
        for row in cls.rows:
            differs = " ".join(word for word in row["overrides"].split(" ") if word not in shared)
            score = f"{row['best_score']:.3f}" if row["best_score"] != "" else ""
            table.append([str(row["job"]), differs, row["status"], score, row["error"]])
        out.print(aligned(table, left=5))
        metric = cls.rows[0]["optimized_metric"]
        out.print(f"best score: {metric} of each job, lower is better: {Path(cls.rows[0]['directory']).parent}")
        cls.rows.clear()
