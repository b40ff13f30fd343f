"""The command of `train.py`; its checks import no Lightning."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from denoiselab.app.building.check_run import check_config, check_stages
from denoiselab.app.config import stages
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.launches import requeue
from denoiselab.app.runs.names import job_overrides
from denoiselab.app.sweeps.results import Outcome, recorded
from denoiselab.console import console
from denoiselab.training.interruption import Stopped, code_of

Config = dict[str, Any]


def check(config: Config, *, sweeping: bool = False) -> None:
    """Check a configuration without loading data, building weights or importing Lightning."""
    runs = stages.runs(config)
    for one in runs:
        check_config(one, sweeping=sweeping)
    for before, after in pairwise(runs):
        if after["teacher"] is not None:
            check_stages(before, after)


def run(config: Config, directory: Path | None = None) -> float:
    """Train, score, report; see `training.run`; of a job of a sweep, how it went is written too."""
    from denoiselab.app.commands.training import run as train

    try:
        return _run(train, config, directory)
    except Stopped as stop:
        if config.get("requeue") and is_leader() and stop.code == code_of(signal.SIGTERM):
            requeue()
        raise


def _run(train: Callable[[Config, Path | None, str], Outcome], config: Config, directory: Path | None) -> float:
    home = directory or Path(config["paths"]["run_dir"])
    with recorded(home, job_overrides()) as record:
        if not config.get("stages"):
            outcome = train(config, directory, "")
        former = ""
        for number, stage in enumerate(config.get("stages") or (), start=1):
            name = stages.folder(number, len(config["stages"]))
            if number == 1 and stage["init_from"] is None:
                stage |= {"init_from": stage["teacher"], "init_weights": stage["teacher_weights"]}
            elif number > 1:
                stage |= {"init_from": former, "init_weights": None, "init_optimizer": False, "teacher_weights": None}
                stage["teacher"] = former if stage["teacher"] else None
            console(stderr=True).print(f"stage {number} of {len(config['stages'])}")
            outcome = train(stage, directory, name)
            former = str(home.absolute() / name)
        record(outcome)
    return outcome.value
