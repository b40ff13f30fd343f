"""The tasks of `sample.py`: which one is asked for, checked and run."""

from __future__ import annotations

import os
import re
from pathlib import Path

from denoiselab.app.building.classifier_guidance import check_function
from denoiselab.app.building.imports import check_source, run_directory
from denoiselab.app.config import overrides
from denoiselab.app.config.prompts import with_prompts
from denoiselab.app.config.settings import Config, SampleSettings, parse
from denoiselab.app.runs.failures import enough_memory
from denoiselab.app.runs.launches import check_alone
from denoiselab.app.runs.paths import check_accelerator
from denoiselab.app.runs.releases import with_directories
from denoiselab.app.tasks.task import Task
from denoiselab.errors import BadInput
from denoiselab.nodes.instantiate import check as check_nodes
from denoiselab.nodes.instantiate import construct
from denoiselab.nodes.packages import definition

# What only a task that takes several may have as a list.
_LISTS = ("ckpt", "weights")


def check(config: Config, *, sweeping: bool = False) -> None:
    """Check all that can be checked before any file is read."""
    config = with_prompts(config)
    if config.get("import") is not None:
        config = {**config, "ckpt": check_source(config)}
    asked = parse(SampleSettings, config)
    check_nodes(config)
    task = _task(asked)
    if not (task.shared and "TORCHELASTIC_RUN_ID" in os.environ):
        check_alone("sample.py")
    if asked.sampler is not None:
        construct(asked.sampler, "sampler")
    for name in _LISTS:
        if isinstance(value := getattr(asked, name), list) and not task.several:
            raise BadInput(f"{name}={value}: this task takes one; task=frontier takes several.")
    check_function(asked.classifier_guidance)
    check_accelerator(asked.accelerator)
    task.check(asked)


def run(config: Config, directory: Path | None = None) -> None:
    """Run the task."""
    config = with_prompts(config)
    if config.get("import") is not None:
        path = run_directory(config["import"], Path(config["log_dir"]), config.get("data"))
        config = {**config, "ckpt": str(path)}
    config = {**config, "ckpt": with_directories(config["ckpt"], Path(config["log_dir"]))}
    asked = parse(SampleSettings, config)
    task = _task(asked)
    with enough_memory(task.less_memory):
        task.run(asked)


def _task(asked: SampleSettings) -> Task:
    try:
        task = construct(asked.task, "task")
    except BadInput as error:
        raise _with_choices(error, asked.task) from None
    if not isinstance(task, Task):
        raise BadInput(f"task._target_={asked.task['_target_']}: it is no subclass of {Task.__module__}.Task.")
    return task


def _with_choices(error: BadInput, task: Config) -> BadInput:
    """An error about the class of a part of the task, in the names of `conf/task`; others as they are."""
    wrong = re.match(r"task\.(\w+)=\w+: must be an instance of ([\w.]+),", str(error))
    if wrong is None:
        return error
    group, wanted = f"task/{wrong[1]}", definition(wrong[2])
    targets = {name: overrides.choice(group, name)["_target_"] for name in overrides.names(group)}
    fitting = [name for name, target in targets.items() if issubclass(definition(target), wanted)]
    chosen = next((name for name, target in targets.items() if target == task[wrong[1]]["_target_"]), None)
    return BadInput(f"{group}={chosen}: not with this task; allowed: {', '.join(fitting)}.") if chosen else error
