"""The tasks of `sample.py`: which one is asked for, checked and run."""

from __future__ import annotations

from pathlib import Path

from denoiselab.app.building.imports import check_source, run_directory
from denoiselab.app.commands.task import Task
from denoiselab.app.config.settings import Config, SampleSettings, parse
from denoiselab.app.runs.failures import enough_memory
from denoiselab.app.runs.paths import check_accelerator
from denoiselab.errors import BadInput
from denoiselab.nodes.instantiate import check as check_nodes
from denoiselab.nodes.instantiate import construct

# What only a task that takes several may have as a list.
_LISTS = ("ckpt", "weights")


def check(config: Config, *, sweeping: bool = False) -> None:
    """Check all that can be checked before any file is read."""
    if config.get("import") is not None:
        config = {**config, "ckpt": check_source(config)}
    asked = parse(SampleSettings, config)
    check_nodes(config)
    task = _task(asked)
    if asked.sampler is not None:
        construct(asked.sampler, "sampler")
    for name in _LISTS:
        if isinstance(value := getattr(asked, name), list) and not task.several:
            raise BadInput(f"{name}={value}: this task takes one; task=frontier takes several.")
    check_accelerator(asked.accelerator)
    task.check(asked)


def run(config: Config, directory: Path | None = None) -> None:
    """Run the task."""
    if config.get("import") is not None:
        path = run_directory(config["import"], Path(config["log_dir"]), config.get("data"))
        config = {**config, "ckpt": str(path)}
    asked = parse(SampleSettings, config)
    task = _task(asked)
    with enough_memory(task.less_memory):
        task.run(asked)


def _task(asked: SampleSettings) -> Task:
    task = construct(asked.task, "task")
    if not isinstance(task, Task):
        raise BadInput(f"task._target_={asked.task['_target_']}: it is no subclass of {Task.__module__}.Task.")
    return task
