"""Checkpoints, logging and the progress bar; all intervals are in images seen."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.strategies import Strategy

from denoiselab import progress
from denoiselab.data.loading.batches import Batch
from denoiselab.training.checkpoint_files import LAST
from denoiselab.training.finite import DivergedError
from denoiselab.training.interruption import Interruption
from denoiselab.training.module import DiffusionModule


def check_interval(name: str, value: int) -> None:
    """Check that an interval is at least 1.

    Raises:
        ValueError: If it is less than 1.
    """
    if value < 1:
        raise ValueError(f"{name}={value}: it must be at least 1.")


def crossed(module: DiffusionModule, batch: Batch, trainer: pl.Trainer, every: int) -> bool:
    """Whether images seen passed a multiple of `every` in the batch that just ended."""
    before = module.images_seen - len(batch["position"]) * trainer.world_size
    return before // every != module.images_seen // every


@contextmanager
def left_out(trainer: pl.Trainer) -> Iterator[None]:
    """Exclude the time within it from the speed that callbacks measure."""

    def now() -> float:
        if torch.cuda.is_initialized():  # what was asked of the device before belongs to the training
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    yield
    seconds = now() - start
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if leave_out := getattr(callback, "leave_out", None):
            leave_out(seconds)


class _AnyRank:
    """Whether any rank has said yes, known a step later: no rank waits for the answer, nor does a host for its GPU."""

    def __init__(self, ranks: int, timeout: timedelta | None = None) -> None:
        self._group: Any = dist.new_group(backend="gloo", timeout=timeout) if ranks > 1 else None
        self._asked: tuple[Any, torch.Tensor] | None = None

    def __call__(self, own: bool) -> bool:
        """What was answered to the last call; of one rank, what it says now."""
        if self._group is None:
            return own
        flag = torch.tensor(int(own), device="cpu")
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, self._group, async_op=True)
        answer = self.last()
        self._asked = (work, flag)
        return answer

    def last(self) -> bool:
        """Wait for the answer to the last call."""
        if self._asked is None:
            return False
        (work, flag), self._asked = self._asked, None
        work.wait()
        return bool(flag)


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` at intervals, at the end, and when a signal to stop is received.

    As a subclass of Lightning's `Checkpoint` it is called after all other callbacks, and saves their states after the
    batch. All ranks stop at the end of an optimizer step, when the state is complete; of several ranks, of the step
    after the signal's. On one device it also saves when an exception ends the training between two steps.

    Args:
        directory: Of the checkpoints.
        interruption: Receives the signals.
        every_images: Interval in images seen.
        keep_every_images: Interval at which a copy is kept as `images_<images seen>.ckpt`; None for none.
        keep_last: Number of last states kept: `last.ckpt`, before it `last.1.ckpt`, and so on.
        asynchronous: Write those at intervals while the training goes on, from a copy of each rank's part in its main
            memory. For sharded trainings (`trainer=fsdp2`); the last one is waited for.

    Raises:
        ValueError: If an interval or `keep_last` is less than 1.
    """

    def __init__(
        self,
        directory: Path,
        interruption: Interruption,
        every_images: int,
        keep_every_images: int | None = None,
        keep_last: int = 2,
        asynchronous: bool = False,
    ) -> None:
        check_interval("callbacks.checkpoints.every_images", every_images)
        check_interval("callbacks.checkpoints.keep_last", keep_last)
        if keep_every_images is not None:
            check_interval("callbacks.checkpoints.keep_every_images", keep_every_images)
        self.directory, self.interruption = directory, interruption
        self.every_images, self.keep_every_images = every_images, keep_every_images
        self.keep_last, self.asynchronous = keep_last, asynchronous
        self._saved_at = -1  # images seen by `last.ckpt`
        self._due = self._keep_due = False
        self._whole = False  # whether weights, optimizer and callbacks have the state after a step

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Replace the SIGTERM handler that Lightning has just installed, which hangs on several ranks."""
        self.interruption.install()
        self._stop = _AnyRank(trainer.world_size, getattr(trainer.strategy, "_timeout", None))

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._whole = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, DiffusionModule)
        self._due |= crossed(module, batch, trainer, self.every_images)
        if self.keep_every_images is not None:
            self._keep_due |= crossed(module, batch, trainer, self.keep_every_images)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stop = self._stop(self.interruption.asked)
        if self._due or self._keep_due or stop:
            with left_out(trainer):
                if self._due or stop:
                    self._save(trainer, module, asynchronous=self.asynchronous and not stop)
                if self._keep_due:
                    self._write(trainer, f"images_{module.images_seen:012d}.ckpt", 1, asynchronous=self.asynchronous)
        self._due = self._keep_due = False
        if stop:
            self.interruption.stop()
        self._whole = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DiffusionModule)
        self._whole = False
        self._stop.last()
        self._save(trainer, module)

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Save what a failure between two steps would lose; of several ranks one alone may have failed."""
        assert isinstance(module, DiffusionModule)
        if self._whole and trainer.world_size == 1 and isinstance(exception, Exception):
            with suppress(Exception):  # the failure itself is what is reported
                self._save(trainer, module)

    def _save(self, trainer: pl.Trainer, module: DiffusionModule, *, asynchronous: bool = False) -> None:
        """Write `last.ckpt` and rename the former one, unless it holds the same weights."""
        keep = self.keep_last if module.images_seen != self._saved_at else 1
        self._write(trainer, LAST, keep, asynchronous=asynchronous)
        self._saved_at = module.images_seen

    def _write(self, trainer: pl.Trainer, name: str, keep: int, *, asynchronous: bool) -> None:
        options = {"keep": keep, **({"asynchronous": True} if asynchronous else {})}
        trainer.save_checkpoint(self.directory / name, storage_options=options)


class LossLog(pl.Callback):
    """Logs the mean loss and its parts since the last entry, the learning rate and the speed, after optimizer steps.

    Args:
        every_images: Interval in images seen.

    Raises:
        ValueError: If the interval is less than 1.
    """

    def __init__(self, every_images: int) -> None:
        check_interval("callbacks.loss_log.every_images", every_images)
        self.every_images = every_images
        self._sum: torch.Tensor | float = 0.0
        self._parts: dict[str, torch.Tensor | float] = {}
        self._batches: torch.Tensor | float = 0  # where steps are left out, those with a finite loss
        self._due = False
        self._since = (0, 0.0)
        self._strategy: Strategy | None = None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DiffusionModule)
        self._strategy = trainer.strategy
        self._since = (module.images_seen, time.perf_counter())

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, DiffusionModule)
        # Lightning's loss is divided by the number of accumulated batches.
        self._add(outputs["loss"].detach().double() * trainer.accumulate_grad_batches, outputs.get("parts", {}), module)
        self._due |= crossed(module, batch, trainer, self.every_images)
        if not self._due or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._due = False
        batches, sums = self._counted(), {"loss": self._sum, **self._parts}  # none where all steps were left out
        means = {f"train/{name}": float(self._mean(total)) / batches for name, total in sums.items() if batches}
        if not math.isfinite(mean := means.get("train/loss", 0.0)):
            raise DivergedError(f"train/loss is {mean} at {module.images_seen:,} images seen")
        (images, start), now = self._since, time.perf_counter()
        metrics = {
            **means,
            "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train/images_per_second": (module.images_seen - images) / (now - start),
        }
        if module.leaves_out:
            metrics["train/steps_left_out"] = module.left_out
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=module.images_seen)
        self._sum, self._parts, self._batches, self._since = 0.0, {}, 0, (module.images_seen, now)

    def _add(self, loss: torch.Tensor, parts: Mapping[str, torch.Tensor], module: DiffusionModule) -> None:
        """Add a batch; where steps are left out, only if its loss is finite."""
        finite = loss.isfinite() if module.leaves_out else None
        for name, part in {"": loss, **parts}.items():
            value = part.double() if finite is None else torch.where(finite, part.double(), 0.0)
            if name:
                self._parts[name] = self._parts.get(name, 0.0) + value
            else:
                self._sum = self._sum + value
        self._batches = self._batches + (1 if finite is None else finite.double())

    def leave_out(self, seconds: float) -> None:
        """Exclude time that was not spent on training from the speed."""
        self._since = (self._since[0], self._since[1] + seconds)

    def state_dict(self) -> dict[str, Any]:
        """The running means over all ranks, as all of them will load the state that the first one saves."""
        parts = {name: float(self._mean(total)) for name, total in self._parts.items()}
        state = {"sum": float(self._mean(self._sum)), "batches": self._counted()}
        return {**state, **({"parts": parts} if parts else {})}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sum, self._batches = state_dict["sum"], state_dict["batches"]
        self._parts = dict(state_dict.get("parts", {}))

    def _counted(self) -> float:
        """Batches of which there are sums, in the mean over all ranks."""
        return float(self._mean(self._batches)) if isinstance(self._batches, torch.Tensor) else self._batches

    def _mean(self, total: torch.Tensor | float) -> torch.Tensor:
        """The mean over all ranks."""
        value = torch.as_tensor(total, dtype=torch.float64)
        if self._strategy is None:
            return value
        return self._strategy.reduce(value.to(self._strategy.root_device), reduce_op="mean")


class ProgressBar(pl.Callback):
    """A bar with images seen, images/s, time left and the loss.

    Args:
        max_images: Images of the whole training.
    """

    # Seconds between readings of the loss, each of which waits for the device.
    REFRESH = 0.5

    def __init__(self, max_images: int) -> None:
        self.max_images = max_images
        self._bar: Any = None
        self._read = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DiffusionModule)
        self._bar = progress.bar("training", self.max_images, module.images_seen, shown=trainer.is_global_zero)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and (now := time.perf_counter()) - self._read > self.REFRESH:
            self._read = now
            self._bar.set_postfix(loss=f"{float(outputs['loss']) * trainer.accumulate_grad_batches:.4f}", refresh=False)
        self._bar.update(len(batch["position"]) * trainer.world_size)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()
