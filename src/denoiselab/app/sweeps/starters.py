"""What starts the jobs of a sweep: each is a tree of processes of its own."""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from denoiselab.app.runs.launches import check_alone
from denoiselab.app.runs.run_id import ID_VARIABLE
from denoiselab.app.sweeps.records import LOG, Job, alive

# Of a launcher around the sweep: a job that saw them would take itself for one of its ranks.
_RANKS = (
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
)
_LAUNCHERS = ("SLURM_", "TORCHELASTIC_", "PMI_", "OMPI_")

# Folder of a sweep with a file for each device of a machine, which the job that has the device locks.
DEVICES = ".devices"


class Started(Protocol):
    """A job that was started."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def stop(self) -> None:
        """Ask it to save and to stop, as by SIGTERM."""

    def kill(self) -> None:
        """End it at once."""


class Starter(Protocol):
    """Starts jobs, `slots` at a time."""

    @property
    def slots(self) -> int:
        """Jobs at a time."""

    def taken(self, slot: int, directory: Path) -> AbstractContextManager[bool]:
        """Within it the devices of a slot are this worker's, and a job that is started takes them over to its end.

        False where a job has them, as one whose worker was killed.

        Args:
            slot: From 0; this worker has no job in it.
            directory: Of the sweep.
        """

    def start(self, job: Job, slot: int, environment: Mapping[str, str]) -> Started:
        """Start a job.

        Args:
            job: Its number, directory, overrides and run id.
            slot: From 0; it is taken.
            environment: Variables that the job needs, beside those of this process.
        """


class Processes:
    """Starts jobs as processes of this machine, with their output in `job.log`.

    Args:
        program: The command without overrides.
        visible: The devices of each slot, for CUDA_VISIBLE_DEVICES; None for a CPU.
        threads: Of a process, unless OMP_NUM_THREADS is set; None for all.
    """

    def __init__(self, program: Sequence[str], visible: Sequence[str | None], threads: int | None = None) -> None:
        self.program, self.visible, self.threads = [*program], [*visible], threads
        self._locks: tuple[int, ...] = ()  # descriptors of the devices of the slot that is taken at present

    @property
    def slots(self) -> int:
        return len(self.visible)

    @contextmanager
    def taken(self, slot: int, directory: Path) -> Iterator[bool]:
        with ExitStack() as stack:
            devices = (self.visible[slot] or "").split(",")
            paths = [directory / DEVICES / f"{platform.node()}-{name.strip()}" for name in devices if name]
            locks = [_locked(stack, path) for path in paths]
            self._locks = tuple(lock for lock in locks if lock is not None)
            try:
                yield None not in locks
            finally:
                self._locks = ()

    def start(self, job: Job, slot: int, environment: Mapping[str, str]) -> Started:
        own = {**without_launchers(os.environ), **environment, ID_VARIABLE: job.run_id}
        if self.threads is not None:
            own.setdefault("OMP_NUM_THREADS", str(self.threads))
        if (devices := self.visible[slot]) is not None:
            own["CUDA_VISIBLE_DEVICES"] = devices
        words = [*self.program, *job.overrides, f"paths.run_dir={job.directory}"]
        with alive(job.directory) as lock, (job.directory / LOG).open("ab") as log:
            # In a session of its own Ctrl-C reaches the sweep alone, which passes it on.
            process = subprocess.Popen(  # noqa: S603
                words,
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lock, *self._locks),
                start_new_session=True,
            )
        return _Process(process)


def _locked(stack: ExitStack, path: Path) -> int | None:
    """The descriptor of a file, locked till the stack and all processes that have it close it; None if it is locked."""
    path.parent.mkdir(exist_ok=True)
    file = stack.enter_context(path.open("a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    return file.fileno()


class _Process:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.terminate()  # the first rank alone, which all others follow

    def kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def without_launchers(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment without those by which a launcher around the sweep numbers its own ranks."""
    kept = "SLURM_CONF"  # the cluster's own, not a job's
    return {k: v for k, v in environment.items() if k == kept or not (k in _RANKS or k.startswith(_LAUNCHERS))}


@contextmanager
def alone() -> Iterator[None]:
    """Within it the variables of this process are those of a job's, which no launcher around the sweep has started.

    Raises:
        BadInput: If a launcher has started several of this process, each of which would start the sweep.
    """
    check_alone("sweep=processes")
    before = dict(os.environ)
    kept = without_launchers(before)
    try:
        for key in before.keys() - kept.keys():
            del os.environ[key]
        yield
    finally:
        os.environ |= {key: value for key, value in before.items() if key not in kept}


def last_line(directory: Path) -> str:
    """The last line of a job's output, without the name of the program before a sentence."""
    try:
        with (directory / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    except OSError:
        return ""
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return text.removeprefix("train.py: ")
