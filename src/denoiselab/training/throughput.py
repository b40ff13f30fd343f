"""How fast a training is, and what holds it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from denoiselab import progress
from denoiselab.console import console
from denoiselab.evaluation.cost import Instant
from denoiselab.evaluation.memory import PeakMemory, device_name
from denoiselab.training.callbacks import check_interval, crossed
from denoiselab.training.gpus import known
from denoiselab.training.module import DiffusionModule

_HALF = ("bf16", "16-")  # precisions of the table of peaks


class Throughput(pl.Callback):
    """Logs the speed, and shows that of the whole training at its end.

    Logged are images a second of all devices; with `count_flops` the operations a second that the objective's steps
    need, and on a GPU of the table in half precision their share of its dense peak (activations that are computed
    again, averages and encoders do not count); the seconds that the host waited for data, and the peak of memory, both
    of the worst rank; and of several ranks which one is slowest by itself, waiting for data and in forward passes, and
    by how many seconds more than the mean. The device is waited for once an interval. First steps, evaluations and
    checkpoints are left out.

    Args:
        flops: Counts the operations of an image in a training step.
        precision: Of the Trainer.
        every_images: Interval in images seen.
        skip_steps: Optimizer steps after each start that are left out.
        count_flops: Whether to count operations, which takes seconds at the start; None: on a GPU.

    Raises:
        ValueError: If the interval is less than 1, or `skip_steps` negative.
    """

    def __init__(
        self,
        flops: Callable[[], float],
        precision: str,
        every_images: int,
        skip_steps: int = 20,
        count_flops: bool | None = None,
    ) -> None:
        check_interval("callbacks.throughput.every_images", every_images)
        if skip_steps < 0:
            raise ValueError(f"callbacks.throughput.skip_steps={skip_steps}: it must be at least 0.")
        self.every_images, self.skip_steps, self.count_flops = every_images, skip_steps, count_flops
        self._count, self._precision = flops, precision
        self._flops = 0.0  # of an image
        self._peak: float | None = None  # of all devices
        self._device = torch.device("cpu")
        self._steps = 0
        self._open = False
        self._begun = self._ended = 0.0
        self._total = [0.0, 0.0, 0.0, 0.0]  # images, seconds, seconds of waiting, bytes

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        """Count operations before the network is compiled or sharded."""
        self._device = trainer.strategy.root_device
        on_gpu = self._device.type == "cuda"
        self._flops = self._count() if (on_gpu if self.count_flops is None else self.count_flops) else 0.0
        gpu = known(device_name(self._device)) if on_gpu and self._precision.startswith(_HALF) else None
        self._peak = gpu.peak * trainer.world_size if gpu else None

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DiffusionModule)
        self._steps, self._open = 0, False
        if not self.skip_steps:
            self._begin(module)

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if self._open:
            self._waited += time.perf_counter() - self._ended
            self._started = Instant(self._device)

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: torch.Tensor) -> None:
        if self._open:
            self._forward.append((self._started, Instant(self._device)))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, DiffusionModule)
        self._steps += not (batch_idx + 1) % trainer.accumulate_grad_batches
        if not self._open:
            if self._steps >= self.skip_steps:
                self._begin(module)
        elif crossed(module, batch, trainer, self.every_images):
            metrics = self._measured(module)
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=module.images_seen)
            self._begin(module)
        self._ended = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Show the speed of all intervals."""
        images, seconds, waited, memory = self._total
        if not seconds or not trainer.is_global_zero:
            return
        speed = images / seconds
        parts = [f"{speed:,.1f} images/s"]
        if self._flops:
            share = f" ({speed * self._flops / self._peak:.1%} of the dense peak)" if self._peak else ""
            parts.append(f"{speed * self._flops / 1e12:.3g} TFLOP/s{share}")
        parts.append(f"{waited / seconds:.1%} of the time waiting for data")
        parts.append(f"{memory / 2**30:.3g} GiB at most")
        console(stderr=True).print(
            f"throughput on {trainer.world_size} x {device_name(self._device)}: {', '.join(parts)}"
        )

    def leave_out(self, seconds: float) -> None:
        """Exclude time that was not spent on training."""
        if self._open:
            self._begun += seconds
            self._ended += seconds
            self._memory = PeakMemory(self._device)

    def _begin(self, module: DiffusionModule) -> None:
        """Begin an interval."""
        self._wait()
        self._open = True
        self._images, self._waited = module.images_seen, 0.0
        self._forward: list[tuple[Instant, Instant]] = []
        self._memory = PeakMemory(self._device)
        self._begun = self._ended = time.perf_counter()

    def _measured(self, module: DiffusionModule) -> dict[str, float]:
        """The figures of the interval that ends here."""
        self._wait()
        seconds, images = time.perf_counter() - self._begun, module.images_seen - self._images
        forward = sum(after.since(before) for before, after in self._forward) / 1000
        memory = self._memory.megabytes() * 1e6
        ranks = self._gathered([self._waited, self._waited + forward, memory])
        waited, own, memory = ranks[:, 0].max().item(), ranks[:, 1], ranks[:, 2].max().item()
        self._total = [a + b for a, b in zip(self._total[:3], (images, seconds, waited), strict=True)] + [
            max(self._total[3], memory)
        ]
        speed = images / seconds
        out = {"images_per_second": speed, "data_wait_seconds": waited, "memory_gib": memory / 2**30}
        if self._flops:
            out["tflops_per_second"] = speed * self._flops / 1e12
            if self._peak:
                out["share_of_peak"] = speed * self._flops / self._peak
        if len(ranks) > 1:
            out |= {"slowest_rank": own.argmax().item(), "slowest_excess_seconds": (own.max() - own.mean()).item()}
        return {f"throughput/{name}": value for name, value in out.items()}

    def _gathered(self, values: list[float]) -> torch.Tensor:
        """The values of all ranks, a row each, float64 on the CPU."""
        own = torch.tensor(values, dtype=torch.float64, device=self._device)
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return own[None].cpu()
        rows = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, own)
        return torch.stack(rows).cpu()

    def _wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class CompilerReport(pl.Callback):
    """Says what the compiler has made of the network, after the first steps and where that changed by the end."""

    def __init__(self) -> None:
        self._said = ""

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._said and not (batch_idx + 1) % trainer.accumulate_grad_batches:
            self._say(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._say(trainer, module)

    def _say(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, DiffusionModule)
        found = module.preparation.compiled
        if found is None or str(found) == self._said:
            return
        self._said = str(found)
        if trainer.is_global_zero:
            progress.say(f"compile={module.preparation.compile}: {found}")
