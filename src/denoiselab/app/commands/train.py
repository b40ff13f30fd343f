"""The command of `train.py`; its checks import no Lightning."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from denoiselab.app.building.check_run import check_config
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.launches import requeue
from denoiselab.app.runs.names import job_overrides
from denoiselab.app.sweeps.results import Outcome, recorded
from denoiselab.training.interruption import Stopped, code_of

Config = dict[str, Any]


def check(config: Config, *, sweeping: bool = False) -> None:
    """Check a configuration without loading data, building weights or importing Lightning."""
    check_config(config, sweeping=sweeping)


def run(config: Config, directory: Path | None = None) -> float:
    """Train, score, report; see `training.run`; of a job of a sweep, how it went is written too."""
    from denoiselab.app.commands.training import run as train

    try:
        return _run(train, config, directory)
    except Stopped as stop:
        if config.get("requeue") and is_leader() and stop.code == code_of(signal.SIGTERM):
            requeue()
        raise


def _run(train: Callable[[Config, Path | None], Outcome], config: Config, directory: Path | None) -> float:
    with recorded(directory or Path(config["paths"]["run_dir"]), job_overrides()) as record:
        outcome = train(config, directory)
        record(outcome)
    return outcome.value
