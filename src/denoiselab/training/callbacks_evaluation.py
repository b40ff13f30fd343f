"""Periodic frontier evaluations and sample previews during training; all intervals are in images seen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping

from denoiselab.training.callbacks import check_interval, crossed, left_out
from denoiselab.training.checkpoint_files import BEST
from denoiselab.training.interruption import Stopped
from denoiselab.training.module import DiffusionModule


class Scoring(Protocol):
    """Scores the model with its present weights."""

    def __call__(self, images_seen: int, /) -> tuple[Mapping[str, float], float]:
        """The scores by name, and the one by which the best checkpoint is chosen; lower is better.

        Raises:
            Stopped: If a signal to stop was received.
        """
        ...


class _Interval(pl.Callback, ABC):
    """Calls `evaluate` at the end of the optimizer step in which images seen pass a multiple of an interval.

    Args:
        name: Of the callback, for messages.
        every_images: Interval in images seen; None for never.

    Raises:
        ValueError: If the interval is less than 1.
    """

    def __init__(self, name: str, every_images: int | None) -> None:
        if every_images is not None:
            check_interval(f"callbacks.{name}.every_images", every_images)
        self.every_images = every_images
        self._due = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, DiffusionModule)
        if self.every_images is None:
            return
        self._due |= crossed(module, batch, trainer, self.every_images)
        if self._due and not (batch_idx + 1) % trainer.accumulate_grad_batches:
            self._evaluate_unless_stopped(trainer, module)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Evaluate first if the run was stopped before a due evaluation: the weights are the same."""
        assert isinstance(module, DiffusionModule)
        if self._due:
            self._evaluate_unless_stopped(trainer, module)

    def state_dict(self) -> dict[str, Any]:
        return {"due": self._due}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._due = state_dict["due"]

    @abstractmethod
    def evaluate(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        """Score or draw samples of the module's present weights."""

    def _evaluate_unless_stopped(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        # At a signal the checkpoints' callback saves and stops.
        with left_out(trainer), suppress(Stopped), module.preparation.suspended():
            self.evaluate(trainer, module)
            self._due = False


class FrontierScores(_Interval):
    """Scores a small frontier at intervals, logs it, and keeps the best checkpoint as `best.ckpt`.

    Cells are stored with those of the final frontier, from which `n` and `images_seen` distinguish them.

    Args:
        prepare: Maps samplers, budgets and the number of samples to the scoring function.
        ready: Called before the training starts, to prepare scorer and reference.
        directory: Of the checkpoints.
        every_images: Interval in images seen; None for never.
        samplers: Names of conf/sampler, or `{name: ddim, eta: 0.5}` with options, as in `evaluation.samplers`.
        nfe: Budgets of network calls.
        num_samples: Samples a cell.

    Raises:
        ValueError: If the interval is less than 1, or a sampler does not fit a budget.
    """

    def __init__(
        self,
        prepare: Callable[[Sequence[str | dict[str, Any]], Sequence[int], int], Scoring],
        ready: Callable[[], object],
        directory: Path,
        every_images: int | None,
        samplers: list[str | dict[str, Any]],
        nfe: list[int],
        num_samples: int,
    ) -> None:
        super().__init__("frontier", every_images)
        self.directory, self._ready = directory, ready
        self._score = prepare(samplers, nfe, num_samples)
        self._best = math.inf

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.every_images is not None:
            self._ready()
        super().on_train_start(trainer, module)

    def evaluate(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        with module.whole():
            scores, chosen = self._score(module.images_seen)
        for logger in trainer.loggers:
            logger.log_metrics(dict(scores), step=module.images_seen)
        if chosen < self._best:
            self._best, self._due = chosen, False
            trainer.save_checkpoint(self.directory / BEST)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._best = state_dict["best"]


class HeldOutLosses(_Interval):
    """Logs the loss on held-out data at fixed noise levels: one curve a level, and their mean `held_out/loss`.

    Lightning's `EarlyStopping` is called after each evaluation; it monitors any of these names with
    `check_on_train_epoch_end=false`.

    Args:
        prepare: Maps the number of samples to the function that measures, whose result is empty without held-out data.
        every_images: Interval in images seen; None for never.
        num_samples: Held-out samples.

    Raises:
        ValueError: If the interval or the number is less than 1.
    """

    def __init__(
        self, prepare: Callable[[int], Callable[[], Mapping[str, float]]], every_images: int | None, num_samples: int
    ) -> None:
        super().__init__("held_out", every_images)
        if num_samples < 1:
            raise ValueError(f"callbacks.held_out.num_samples={num_samples}: it must be at least 1.")
        self._measure = prepare(num_samples)

    def evaluate(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        with module.whole():
            losses = dict(self._measure())
        if not losses:
            return
        for logger in trainer.loggers:
            logger.log_metrics(losses, step=module.images_seen)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in losses.items()})
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping):
                callback.on_validation_end(trainer, module)


class Preview(_Interval):
    """Draws a few samples from the same x_T at intervals, to a file and to every logger that takes pictures.

    Args:
        prepare: Maps the name of a sampler, a budget and the number of samples to the function that draws them to a
            file; all ranks call it, and the first one writes.
        directory: For files `images_<images seen>.png`.
        every_images: Interval in images seen; None for never.
        sampler: A name of conf/sampler.
        nfe: Budget of network calls.
        num_samples: Number of samples.

    Raises:
        ValueError: If the interval is less than 1, or the sampler does not fit the budget.
    """

    def __init__(
        self,
        prepare: Callable[[str, int, int], Callable[[Path], None]],
        directory: Path,
        every_images: int | None,
        sampler: str,
        nfe: int,
        num_samples: int,
    ) -> None:
        super().__init__("preview", every_images)
        self.directory = directory
        self._draw = prepare(sampler, nfe, num_samples)

    def evaluate(self, trainer: pl.Trainer, module: DiffusionModule) -> None:
        path = self.directory / f"images_{module.images_seen:012d}.png"
        with module.whole():
            self._draw(path)
        for logger in trainer.loggers if trainer.is_global_zero and path.is_file() else ():
            if hasattr(logger, "log_image"):
                logger.log_image("preview/samples", [str(path)], step=module.images_seen)
