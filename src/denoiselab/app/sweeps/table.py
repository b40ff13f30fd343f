"""What Hydra calls in a sweep: its record before the first job, its table after each, its summary at the end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from denoiselab.app.config import multirun, overrides
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.run_id import run_id
from denoiselab.app.sweeps.records import Sweep
from denoiselab.cleaning import line
from denoiselab.console import console
from denoiselab.errors import BadInput


class SweepTable(Callback):
    """Hydra callback that writes `sweep.json` before the first job of a multirun, and `sweep.csv` after each."""

    started: Path | None = None  # the sweep that this process has started, whose table is printed at the end

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Write the record of the sweep."""
        given = [*config.hydra.overrides.task]
        other = any(text.startswith("hydra/sweeper=") for text in config.hydra.overrides.hydra)  # it makes the jobs
        jobs = [] if other else overrides.jobs(kwargs["config_name"], given, multirun=True)
        type(self).started = Path(config.hydra.sweep.dir)
        Sweep(
            directory=Path(config.hydra.sweep.dir),
            id=_id_of(Path(config.hydra.sweep.dir)),
            launcher=str(config.hydra.launcher._target_).rpartition(".")[2],
            swept=tuple(multirun.swept_keys(given, jobs)),
            metric=config.optimized_metric,
            command=tuple(sys.argv),
            planned=dict(enumerate(map(tuple, jobs))),
        ).write()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the table after a job of a multirun."""
        if config.hydra.mode is not None and config.hydra.mode.name == "MULTIRUN" and is_leader():
            from denoiselab.app.sweeps.summary import write_table  # imports torch, for single runs too

            write_table(Sweep.read(Path(config.hydra.sweep.dir)))

    @classmethod
    def finish(cls) -> None:
        """Write and print the summary of the sweep that this process has started, if there is one."""
        if cls.started is not None:
            started, cls.started = cls.started, None
            summarised(started)


def _id_of(directory: Path) -> str:
    """The id of the sweep in a directory; one that goes on keeps it, as it names its runs and their group."""
    try:
        return Sweep.read(directory).id
    except BadInput:
        return run_id()


def summarised(directory: Path) -> None:
    """Write and print the summary of the sweep in a directory, if that can be done."""
    from denoiselab.app.sweeps.summary import summarise

    try:
        summarise(Sweep.read(directory))
    except (BadInput, OSError) as error:  # after all jobs, whose records stay
        console(stderr=True).print(f"no summary of the sweep: {line(error)}")
