"""The end of a training in several processes: one that fails or is lost ends all, with its rank and its error."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.utilities import rank_zero_only

from denoiselab.app.runs.failures import check_there
from denoiselab.console import console
from denoiselab.errors import Failure
from denoiselab.evaluation.ranks import store, tell, told

# Errors of a process whose group has lost another process.
_LOST = re.compile("gloo|nccl|peer|process ?group|tcpstore|timed out waiting", re.IGNORECASE)
_OBSERVER = "lightning_fabric.strategies.launchers.subprocess_script"

# Seconds for other ranks to say why the group has ended, and for processes to end before they are killed.
_PATIENCE, _GRACE = 5.0, 15.0


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
    """Within it the end of another process, or the loss of the run's directory, is a `Failure` with `advice`.

    An error of this process is sent to the other ranks, and gets this rank as its attribute `rank`.
    """
    parent = os.getppid()
    words = _LastWords(trainer, advice)
    observer = logging.getLogger(_OBSERVER)
    level, observer.propagate = observer.level, False
    observer.setLevel(logging.INFO)
    observer.addHandler(words)
    try:
        yield
    except SystemExit as stop:
        _await_processes(trainer)  # they stop as this one does
        if getattr(stop, "advice", "") and trainer.global_rank:
            vars(stop)["advice"] = ""  # rank 0 gives it
        raise
    except Exception as error:
        if isinstance(error, OSError):
            check_there(directory)
        text = " ".join(str(error).split())
        lost = isinstance(error, RuntimeError) and _LOST.search(text) and _culprit(trainer, parent)
        if not lost:
            _leave(trainer, error)
            raise
        _await_processes(trainer)
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
                return f"rank {rank} of {len(processes) + 1} {_how(rank, code)}"
        time.sleep(0.05)
    return None


def _how(rank: int, code: int) -> str:
    """How a process ended: with its error, if it could say that."""
    with contextlib.suppress(RuntimeError):
        if (error := told(f"failed {rank}")) is not None:
            return f"failed: {error}"
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _culprit(trainer: pl.Trainer, parent: int) -> str | None:
    """Which rank ended the group, and how; None if that is not known and this is the only process."""
    _calm_observer()
    if not dist.is_initialized():
        return _ended(_processes(trainer)) or ("rank 0 is gone" if os.getppid() != parent else None)
    rank, world = dist.get_rank(), dist.get_world_size()
    tell(f"alive {rank}", "")
    silent, end = {*range(world)} - {rank}, time.monotonic() + _PATIENCE
    while time.monotonic() < end and silent:
        if found := _ended(_processes(trainer), 0.1):
            return found
        if os.getppid() != parent and rank:
            return f"rank 0 of {world} is gone"
        try:
            for other in sorted(silent):
                if (error := told(f"failed {other}")) is not None:
                    return f"rank {other} of {world} failed: {error}"
            silent -= {other for other in silent if told(f"alive {other}") is not None}
        except RuntimeError:
            return f"rank 0 of {world}, which keeps what the ranks tell each other, is gone"
        time.sleep(0.1)
    if not silent:
        return "the connection between the ranks broke"
    names = ", ".join(map(str, sorted(silent)))
    return f"rank {names} of {world} {'does' if len(silent) == 1 else 'do'} not answer: ended, stopped or cut off"


def _leave(trainer: pl.Trainer, error: Exception) -> None:
    """Tell the other ranks the error of this one, end the group so that they notice, and see them end."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    _calm_observer()
    rank, world = dist.get_rank(), dist.get_world_size()
    error.rank = f"rank {rank} of {world}: "  # type: ignore[attr-defined]
    tell(f"failed {rank}", f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000])
    if "TORCHELASTIC_ERROR_FILE" in os.environ:  # torchrun shows the first one at its end
        from torch.distributed.elastic.multiprocessing.errors import ErrorHandler

        with contextlib.suppress(OSError):
            ErrorHandler().record_exception(error)
    kept = store()  # lives in rank 0, as long as this name does
    if dist.get_backend() == "gloo":
        dist.destroy_process_group()
    _await_processes(trainer)
    if rank == 0 and kept is not None and not _processes(trainer):
        time.sleep(_PATIENCE)


def _calm_observer() -> None:
    """Keep Lightning's thread, which kills this process at the end of another, from doing so: all end as they are."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            vars(thread)["_child_processes"] = []


def _await_processes(trainer: pl.Trainer) -> None:
    """See the processes end that this one started; those that do not are killed, stopped ones too."""
    _calm_observer()
    end = time.monotonic() + _GRACE
    for process in _processes(trainer):
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
