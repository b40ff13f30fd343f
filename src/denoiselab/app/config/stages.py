"""Trainings of several stages: runs one after another in one command, each from the weights of the one before."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from denoiselab.app.config.settings import Config
from denoiselab.errors import BadInput

# Where stages lie in the directory of their training.
FOLDER = "stage_"


def runs(config: Config) -> list[Config]:
    """The configurations of the runs of a training: of its stages, or its own."""
    return config.get("stages") or [config]


def folder(number: int, count: int) -> str:
    """The name of the folder of a stage, from 1."""
    return f"{FOLDER}{number:0{len(str(count))}d}"


def split(config: DictConfig) -> list[DictConfig]:
    """The configurations of the stages of one that names, under `stages`, the values of options in each; else none.

    They are not resolved yet: what is computed from an option of `stages` has its value there.

    Raises:
        BadInput: If a list is none or of another length, or an option is unknown.
    """
    if config.get("stages") is None:
        return []
    values = dict(_leaves(OmegaConf.to_container(config.stages, resolve=True)))
    counts = {option: len(value) if isinstance(value, list) else 0 for option, value in values.items()}
    for option, count in counts.items():
        if count == 0 or count != (most := max(counts.values())):
            raise BadInput(f"stages.{option}={values[option]}: give a list of a value for each of the {most} stages.")
    if not counts:
        raise BadInput("stages={}: name options, each with a list of a value for each stage.")
    out = []
    for number in range(max(counts.values())):
        stage = copy.deepcopy(config)
        stage.stages = None
        for option, value in values.items():
            try:
                OmegaConf.update(stage, option, value[number])
            except OmegaConfBaseException:
                raise BadInput(f"stages.{option}: this configuration has no option {option}.") from None
        out.append(stage)
    return out


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a tree, with dots in their names, and their values."""
    if not isinstance(node, Mapping):
        yield path, node
        return
    for key, value in node.items():
        yield from _leaves(value, f"{path}.{key}" if path else str(key))
