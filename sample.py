"""Draw samples from a checkpoint, or score samplers: `python sample.py ckpt=<run> [key=value ...]`, see README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from denoiselab import choices
from denoiselab.app.commands import cli


def check(config: dict[str, Any], sweeping: bool) -> None:
    """Check a job; the imports take seconds, so a misspelt option is refused before them."""
    from denoiselab.app.commands.generate import check_config

    check_config(config, sweeping=sweeping)


def task(config: dict[str, Any], directory: Path | None) -> None:
    """Run a job."""
    from denoiselab.app.runs.failures import enough_memory

    shares = {"frontier": "frontier.batch_size", "grid": "grid.num_samples"}
    share = next((option for name, option in shares.items() if config.get(name) is not None), "batch_size")
    with enough_memory(f"a smaller {share}"):
        _task(config)


def _task(config: dict[str, Any]) -> None:
    if config.get("import") is not None:
        from denoiselab.app.building.imports import run_directory

        config["ckpt"] = str(run_directory(config["import"], Path(config["log_dir"]), config.get("data")))
    if config.get("frontier") is not None:
        from denoiselab.app.commands.frontier import score

        score(config)
    elif config.get("likelihood") is not None:
        from denoiselab.app.commands.likelihood import measure_likelihood

        measure_likelihood(config)
    elif config.get("grid") is not None:
        from denoiselab.app.commands.fit_grid import fit_grid

        fit_grid(config)
    elif config.get("export") is not None:
        from denoiselab.app.commands.export import export

        export(config)
    elif config.get("encode") is not None:
        from denoiselab.app.commands.encode import encode

        encode(config)
    else:
        from denoiselab.app.commands.generate import sample

        sample(config)


if __name__ == "__main__":
    cli.run(choices.folder(), "sample", check, task)
