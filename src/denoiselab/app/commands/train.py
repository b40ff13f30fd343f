"""The command of `train.py`; its checks import no Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoiselab.app.building.check_run import check_config

Config = dict[str, Any]


def check(config: Config, *, sweeping: bool = False) -> None:
    """Check a configuration without loading data, building weights or importing Lightning."""
    check_config(config, sweeping=sweeping)


def run(config: Config, directory: Path | None = None) -> float:
    """Train, score, report; see `training.run`."""
    from denoiselab.app.commands.training import run as train

    return train(config, directory)
