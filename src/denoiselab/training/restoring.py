"""Checks that the state of a checkpoint fits a training before Lightning restores it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from denoiselab.training.checkpoint_files import CHECKPOINT_KEY, CheckpointError, check_weights
from denoiselab.training.module import DiffusionModule

_LOOPS = ("fit_loop", "validate_loop", "test_loop", "predict_loop")


def check_training(path: Path, checkpoint: Mapping[str, Any], trainer: pl.Trainer, module: DiffusionModule) -> None:
    """Check that a checkpoint is one of this training.

    Args:
        path: Of the checkpoint, for messages.
        checkpoint: Its content.
        trainer: Of the training.
        module: The module in training.

    Raises:
        CheckpointError: If weights, averages, optimizer or progress are missing, malformed or do not fit.
    """
    check_weights(path, module.state_dict(), checkpoint["state_dict"])
    for name in module.ema.profiles:
        parameters = dict(module.denoiser.named_parameters())
        check_weights(path, parameters, checkpoint[CHECKPOINT_KEY]["ema"].get(name, {}))
    version = checkpoint.get("pytorch-lightning_version")
    if not isinstance(version, str) or not re.fullmatch(r"\d+\.\d+\.\d+\S{0,40}", version):
        raise _malformed(path, "pytorch-lightning_version")
    callbacks = {callback.state_key: callback.state_dict() for callback in trainer.callbacks}  # type: ignore[attr-defined]
    saved = checkpoint.get("callbacks")
    if not isinstance(saved, dict):
        raise _malformed(path, "callbacks")
    fresh = {
        "epoch": 0,
        "global_step": 0,
        "lr_schedulers": [],
        "loops": {name: getattr(trainer, name).state_dict() for name in _LOOPS},
        "callbacks": {key: state for key, state in callbacks.items() if key in saved},
    }
    for key in _unlike(fresh, checkpoint, ""):
        raise _malformed(path, key)
    check_optimizer(path, checkpoint, module)


def check_optimizer(path: Path, checkpoint: Mapping[str, Any], module: DiffusionModule) -> dict[int, Any]:
    """The state of a checkpoint's optimizer, checked against the parameters of a module.

    Raises:
        CheckpointError: If there is none, or it is malformed or has other parameters.
    """
    states = checkpoint.get("optimizer_states")
    if not states:
        raise CheckpointError(f"{path}: holds no state of an optimizer.")
    state = states[0] if isinstance(states, list) and isinstance(states[0], dict) else {}
    named = [*module.denoiser.named_parameters(), *module.objective.named_parameters()]
    fresh = module.configure_optimizers().state_dict()["param_groups"]
    groups, of = state.get("param_groups"), state.get("state")
    if not isinstance(of, dict) or not isinstance(groups, list) or not all(isinstance(g, dict) for g in groups):
        raise _malformed(path, "optimizer_states")
    if [group.get("params") for group in groups] != [group["params"] for group in fresh]:
        raise CheckpointError(f"{path}: its optimizer's state is of other parameters than this network's.")
    for own, group in zip(fresh, groups, strict=True):
        for key in _unlike({key: value for key, value in own.items() if key in group}, group, "param_groups"):
            raise _malformed(path, key)
    for index, values in of.items():
        if type(index) is not int or not 0 <= index < len(named) or not isinstance(values, dict):
            raise _malformed(path, "optimizer_states")
        name, parameter = named[index]
        for key, value in values.items():
            if not isinstance(key, str) or not _fits(value, parameter):
                raise CheckpointError(f"{path}: its optimizer's '{key}' does not fit the parameter '{name}'.")
    return of


def _fits(value: Any, parameter: Tensor) -> bool:
    """Whether a value in an optimizer's state fits a parameter: a number, or a tensor that broadcasts to its shape."""
    if not isinstance(value, Tensor):
        return value is None or isinstance(value, int | float)
    try:
        return value.layout is torch.strided and torch.broadcast_shapes(value.shape, parameter.shape) == parameter.shape
    except RuntimeError:
        return False


def _unlike(fresh: Any, saved: Any, name: str) -> Iterator[str]:
    """Names of values that are missing in `saved` or have another type than in `fresh`."""
    if isinstance(fresh, Mapping):
        for key, value in fresh.items():
            where = f"{name}.{key}" if name else str(key)
            if not isinstance(saved, Mapping) or key not in saved:
                yield where
            else:
                yield from _unlike(value, saved[key], where)
    elif {type(fresh), type(saved)} not in ({type(fresh)}, {int, float}, {list, tuple}) and None not in (fresh, saved):
        yield name


def _malformed(path: Path, key: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a whole checkpoint of denoiselab: its '{key}' is missing or malformed.")
