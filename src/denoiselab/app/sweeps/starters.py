"""What starts the jobs of a sweep: each is a tree of processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

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

    def start(self, job: Job, slot: int, environment: Mapping[str, str]) -> Started:
        """Start a job.

        Args:
            job: Its number, directory, overrides and run id.
            slot: From 0; no other job runs in it.
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

    @property
    def slots(self) -> int:
        return len(self.visible)

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
                pass_fds=(lock,),
                start_new_session=True,
            )
        return _Process(process)


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
