"""The end of another process of a training, or the loss of its directory, as one sentence."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from denoiselab.app.runs.failures import check_there
from denoiselab.console import console
from denoiselab.errors import Failure

# Errors of a process whose group has lost another process.
_LOST = re.compile("gloo|nccl|peer|process ?group|tcpstore", re.IGNORECASE)
_OBSERVER = "lightning_fabric.strategies.launchers.subprocess_script"


class DirectoryCheck(pl.Callback):
    """Ends the training if the run's directory was removed."""

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
    """Within it the end of another process, or the loss of the run's directory, is a `Failure` with `advice`."""
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
