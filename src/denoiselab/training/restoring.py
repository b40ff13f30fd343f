"""Checks that the state of a checkpoint fits a training before Lightning restores it; the way back to one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from denoiselab.console import console
from denoiselab.errors import BadInput
from denoiselab.training.callbacks import Checkpoints
from denoiselab.training.checkpoint_files import CHECKPOINT_KEY, CheckpointError, check_weights, newest_whole
from denoiselab.training.finite import DivergedError
from denoiselab.training.module import DiffusionModule
from denoiselab.training.sharded_tensors import is_sharded

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


class Divergence(pl.Callback):
    """What follows a step whose gradients are not finite, on all ranks alike, as they have the same gradients.

    Args:
        policy: `stop`: the training ends when a loss is logged, or a checkpoint is due, that is not finite. `skip`: the
            step is left out, and counted as `train/steps_left_out`. `back`: it is, and weights, optimizer and averages
            are those of the newest checkpoint again, while the images go on. The last two wait for the device once a
            step.
        most: Steps in a row that may be left out; one more ends the training.

    Raises:
        ValueError: If the policy is unknown or `most` < 1.
    """

    def __init__(self, policy: Literal["stop", "skip", "back"] = "stop", most: int = 10) -> None:
        if policy not in ("stop", "skip", "back"):
            raise ValueError(f"callbacks.divergence.policy={policy}: allowed: stop, skip, back.")
        if most < 1:
            raise ValueError(f"callbacks.divergence.most={most}: it must be at least 1.")
        self.policy, self.most = policy, most
        self._total = self._row = 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Tell the module, whose losses are logged without those of such steps.

        Raises:
            BadInput: If ranks hold parts of the weights, which are not read back.
        """
        assert isinstance(module, DiffusionModule)
        if self.policy == "back" and module.device_mesh is not None:
            raise BadInput("callbacks.divergence.policy=back: is not offered for sharded trainings; give skip.")
        module.leaves_out, module.left_out = self.policy != "stop", self._total

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take the gradients away if one is not finite: optimizers pass over parameters without one."""
        assert isinstance(module, DiffusionModule)
        if self.policy == "stop":
            return
        parameters = [one for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
        norm: Any = nn.utils.get_total_norm([one.grad for one in parameters])
        if math.isfinite(norm.full_tensor() if is_sharded(norm) else norm):
            self._row = 0
            return
        self._row, self._total = self._row + 1, self._total + 1
        module.left_out = self._total
        text = f"gradients are not finite in {self._row} step(s) in a row at {module.images_seen:,} images seen"
        if self._row > self.most:
            raise DivergedError(f"{text}, more than callbacks.divergence.most")
        for one in parameters:
            one.grad = None
        if trainer.is_global_zero:
            console(stderr=True).print(f"{text}; the last one is left out.")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go back, after a step that was left out."""
        assert isinstance(module, DiffusionModule)
        if self.policy == "back" and self._row and not (batch_idx + 1) % trainer.accumulate_grad_batches:
            self._back(trainer, module)

    @torch.no_grad()
    def _back(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        folders = [one.directory for one in callbacks if isinstance(one, Checkpoints)]
        found = newest_whole(folders[0]) if folders else None
        if found is None:
            raise DivergedError("gradients are not finite, and there is no checkpoint to go back to")
        path, checkpoint, _ = found
        module.load_state_dict(checkpoint["state_dict"])
        trainer.optimizers[0].load_state_dict(checkpoint["optimizer_states"][0])
        for name, average in module.ema.averages.items():
            for key, tensor in average.items():
                tensor.copy_(checkpoint[CHECKPOINT_KEY]["ema"][name][key])
        if trainer.is_global_zero:
            console(stderr=True).print(f"the training goes on from the weights of {path}.")

    def state_dict(self) -> dict[str, Any]:
        return {"left_out": self._total} if self._total else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._total = state_dict["left_out"]
