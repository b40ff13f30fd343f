"""Convert any images to shards, once: `python -m denoiselab.convert data=... out=... [key=value ...]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoiselab import choices
from denoiselab.app.commands import cli


def check(config: dict[str, Any], sweeping: bool) -> None:
    """Check a job."""
    from denoiselab.app.commands.convert import check_config

    check_config(config)


def task(config: dict[str, Any], directory: Path | None) -> None:
    """Run a job."""
    from denoiselab.app.commands.convert import convert

    convert(config)


if __name__ == "__main__":
    cli.run(choices.folder(), "convert", check, task)
