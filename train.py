"""Train a diffusion model and score every sampler: `python train.py [key=value ...]`, see README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoiselab import choices
from denoiselab.app.commands import cli
from denoiselab.app.config.early import check_train


def check(config: dict[str, Any], sweeping: bool) -> None:
    """Check a job, after `check_train`; the imports take seconds."""
    from denoiselab.app.building.assemble import check_config

    check_config(config, sweeping=sweeping)


def task(config: dict[str, Any], directory: Path | None) -> float:
    """Run a job."""
    from denoiselab.app.commands.train import train

    return train(config, directory)


if __name__ == "__main__":
    cli.run(choices.folder(), "train", check, task, check_train)
