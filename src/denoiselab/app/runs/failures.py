"""Errors from outside a run as one sentence: a dead process, a missing folder, full memory."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only

from denoiselab.console import console
from denoiselab.errors import Failure

# Errors of a process whose group has lost another process.
_LOST = re.compile("gloo|nccl|peer|process ?group|tcpstore", re.IGNORECASE)
_OBSERVER = "lightning_fabric.strategies.launchers.subprocess_script"
_FULL = re.compile("out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Within it, running out of memory is a `Failure`.

    Args:
        advice: Options to change, for the message.

    Raises:
        Failure: If there is too little memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = " ".join(str(error).split())
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not _FULL.search(text):
            raise
        short = ". ".join(text.split(". ")[:2]).removesuffix(".") or "no more"
        raise Failure(f"out of memory ({short}); to need less: {advice}.") from error


def less_memory(config: Mapping[str, Any]) -> str:
    """Options with which a training needs less memory, those that do not change its batches first."""
    trainer, network, batch = config["trainer"], config["network"], config["batch_size"]
    options = []
    parts = 2 * trainer["accumulate_grad_batches"]
    if batch % (parts * trainer["num_nodes"]) == 0:
        options.append(f"trainer.accumulate_grad_batches={parts} (the same batch in parts)")
    if network.get("checkpoint_levels", "all") != "all":
        options.append("network.checkpoint_levels=all (activations are computed twice)")
    if str(trainer["precision"]) == "32-true":
        options.append("trainer.precision=bf16-mixed")
    return ", ".join([*options, f"batch_size={max(1, batch // 2)}"])


def check_there(directory: Path) -> None:
    """Check that the run's directory is still there; files written later would restore only part of it.

    Raises:
        Failure: If it was removed or moved.
    """
    if not (directory / "config.yaml").is_file():
        raise Failure(f"paths.run_dir={directory}: this folder was removed or moved, so nothing can be saved.")


class DirectoryCheck(pl.Callback):
    """Ends the training if the run's directory was removed.

    Args:
        directory: The run's.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._checked = 0.0

    @rank_zero_only
    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """Check once a second."""
        if time.monotonic() - self._checked > 1:
            check_there(self.directory)
            self._checked = time.monotonic()


@contextmanager
def whole(trainer: pl.Trainer, directory: Path, advice: Callable[[], str]) -> Iterator[None]:
    """Within it, the end of another process of the group, or the loss of the run's directory, is a `Failure`.

    Args:
        trainer: Its launcher starts the other processes.
        directory: The run's.
        advice: How to continue, for the message.

    Raises:
        Failure: If one is lost.
    """
    parent = os.getppid()
    words = _LastWords(trainer, advice)
    observer = logging.getLogger(_OBSERVER)
    level, observer.propagate = observer.level, False
    observer.setLevel(logging.INFO)
    observer.addHandler(words)
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            check_there(directory)
        text = " ".join(str(error).split())
        lost = None
        if isinstance(error, RuntimeError) and _LOST.search(text):
            lost = _ended(_processes(trainer)) or ("rank 0 is gone" if os.getppid() != parent else None)
        if lost is None:
            raise
        raise Failure(f"{lost}; {advice()} (here: {text[:200]})") from error
    finally:
        observer.removeHandler(words)
        observer.setLevel(level)
        observer.propagate = True


class _LastWords(logging.Handler):
    """Prints which process died when Lightning logs it, before it kills the waiting ones."""

    def __init__(self, trainer: pl.Trainer, advice: Callable[[], str]) -> None:
        super().__init__()
        self.trainer, self.advice = trainer, advice

    def emit(self, record: logging.LogRecord) -> None:
        if lost := _ended(_processes(self.trainer)):
            console(stderr=True).print(f"train.py: {lost}; {self.advice()}")


def _processes(trainer: pl.Trainer) -> list[subprocess.Popen[bytes]]:
    """The processes that this one started: ranks 1 and above."""
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _ended(processes: list[subprocess.Popen[bytes]], patience: float = 3.0) -> str | None:
    """Which process ended first, and how; None if none ends within `patience` seconds."""
    end = time.monotonic() + patience
    while processes and time.monotonic() < end:
        for rank, process in enumerate(processes, 1):
            if code := process.poll():
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
                return f"rank {rank} of {len(processes) + 1} {how}"
        time.sleep(0.05)
    return None
