"""Devices of this machine, checked before anything starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from denoiselab.app.runs.launches import check_launch
from denoiselab.app.runs.strategies import check_strategy, is_sharded
from denoiselab.errors import BadInput
from denoiselab.nodes.options import PROGRAM_SETS

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true")


# Where launchers write a process's rank, in the order in which Lightning reads them.
_RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


# Whether jobs are checked that run on other machines, whose devices are not known here.
_ELSEWHERE: ContextVar[bool] = ContextVar("elsewhere", default=False)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Within it no check asks for this machine's devices, or for its job of SLURM's."""
    token = _ELSEWHERE.set(True)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


def is_elsewhere() -> bool:
    """Whether what is checked runs on other machines."""
    return _ELSEWHERE.get()


def is_leader() -> bool:
    """Whether this process is rank 0, which writes and prints: by Lightning where it runs, else by the launcher."""
    lightning = getattr(sys.modules.get("pytorch_lightning.utilities"), "rank_zero_only", None)
    launched = next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0)
    return bool(getattr(lightning, "rank", launched) == 0)


def resolve_accelerator(asked: str) -> str:
    """The accelerator, with CUDA or the CPU for `auto`. (Apple's MPS lacks float64, in which levels are computed.)."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if asked == "auto" else asked


def check_devices(trainer: Mapping[str, Any], batch_size: int, *, sweeping: bool) -> None:
    """Check the options of the Trainer against this machine.

    Raises:
        BadInput: If a device is missing, the batch is not divisible among the devices, a multirun in one process would
            use several, or the precision is none of `PRECISIONS`.
    """
    import torch

    accelerator, devices = trainer["accelerator"], trainer["devices"]
    check_strategy(trainer)
    for key in PROGRAM_SETS:
        if key in trainer:
            raise BadInput(f"trainer.{key}={trainer[key]}: the program sets it; max_images is the length of training.")
    check_precision(trainer)
    away = is_elsewhere()
    gpus = torch.cuda.device_count()
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise BadInput(f"trainer.accelerator={accelerator}: unknown; allowed: auto, cpu, gpu, cuda.")
    if accelerator in ("gpu", "cuda") and not (gpus or away):
        raise BadInput(f"trainer.accelerator={accelerator}: this machine has no GPU; use trainer=cpu.")
    on_gpu = gpus > 0 and accelerator != "cpu"
    count = _count(devices, gpus if on_gpu else 1)
    if on_gpu and count > gpus and not away:
        raise BadInput(f"trainer.devices={devices}: this machine has {gpus} GPU(s).")
    if not on_gpu and count > 1 and not away:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if trainer["strategy"] == "auto":
            raise BadInput(
                f"trainer.devices={devices}: this run is on the CPU, which is one device; use trainer.devices=1, "
                "or trainer=ddp to train in several CPU processes."
            )
        if count > cores:
            raise BadInput(f"trainer.devices={devices}: this run is on the CPU, which has {cores} core(s).")
    check_shares(count, trainer, batch_size)
    check_launch(count, trainer["num_nodes"])
    if sweeping and (trainer["num_nodes"] > 1 or count > 1):
        raise BadInput(
            f"trainer.devices={devices}: a multirun in one process trains on one device (each rank would run its own "
            f"sweep); use trainer.devices=1, or sweep=processes sweep.devices_per_job={count}, of processes."
        )


def check_precision(trainer: Mapping[str, Any]) -> str:
    """The precision of a Trainer's options.

    Raises:
        BadInput: If it is none of `PRECISIONS`, or none of those of sharded trainings.
    """
    precision = str(trainer["precision"])
    if precision not in PRECISIONS:
        raise BadInput(
            f"trainer.precision={precision}: allowed: {', '.join(PRECISIONS)}; in all of them weights and their "
            "averages are in float32, as half precision rounds small updates to zero."
        )
    if precision == "bf16-true" and is_sharded(trainer):
        raise BadInput(f"trainer.precision={precision}: weights that are sharded are not copied; use bf16-mixed.")
    if precision == "16-mixed" and is_sharded(trainer):
        raise BadInput(f"trainer.precision={precision}: is not offered for sharded trainings; use bf16-mixed.")
    return precision


def check_shares(devices: int, trainer: Mapping[str, Any], batch_size: int) -> None:
    """Refuse a batch that is not divisible among the devices of each node.

    Raises:
        BadInput: If so.
    """
    shares = devices * trainer["num_nodes"] * trainer["accumulate_grad_batches"]
    if batch_size % shares:
        raise BadInput(
            f"batch_size={batch_size}: must be divisible by devices x trainer.num_nodes x "
            f"trainer.accumulate_grad_batches = {shares}."
        )


def _count(devices: Any, available: int) -> int:
    """The number of devices that an option of the Trainer asks for."""
    if devices in ("auto", -1, "-1"):
        return available
    if isinstance(devices, str) and devices.isdecimal():
        devices = int(devices)
    count = len(devices) if isinstance(devices, list) else devices
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise BadInput(f"trainer.devices={devices}: allowed: a number from 1, a list of device numbers, or auto.")
    return count
