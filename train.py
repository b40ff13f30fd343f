"""Train a diffusion model and score every sampler: `python train.py [key=value ...]`, see README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoiselab.app.commands import cli


def check(config: dict[str, Any], sweeping: bool) -> None:
    """Check a job; the imports take seconds, so a misspelt key is told without them."""
    from denoiselab.app.building.assemble import check_config

    check_config(config, sweeping=sweeping)


def task(config: dict[str, Any], directory: Path | None) -> float:
    """Run a job."""
    from denoiselab.app.commands.train import train

    return train(config, directory)


if __name__ == "__main__":
    cli.run(Path(__file__).resolve().parent / "conf", "train", check, task)
