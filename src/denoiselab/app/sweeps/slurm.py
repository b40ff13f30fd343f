"""Jobs of a sweep as jobs of SLURM."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from denoiselab.app.runs.run_id import ID_VARIABLE
from denoiselab.app.sweeps.records import LOG, Job
from denoiselab.app.sweeps.starters import Started, without_launchers
from denoiselab.errors import BadInput, Failure
from denoiselab.files import write_text

# Folder of a sweep with the number that SLURM gave to each job, and the exit code of each that has ended.
PLACE = ".slurm"

_PAUSE = 2.0  # seconds between questions to the controller, which is one for all users
# Exit codes of jobs that could not write their own.
_CODES = {"COMPLETED": 0, "CANCELLED": 143, "TIMEOUT": 143, "PREEMPTED": 143, "DEADLINE": 143}


class Slurm:
    """Starts jobs by sbatch, each as srun of one task a device, with their output in `job.log`.

    A job that is in SLURM's queue already, as the sweep was killed after it had been sent, is not sent again.

    Args:
        program: The command without overrides.
        slots: Jobs in the queue at a time.
        nodes: Of a job.
        tasks: On each node, one a device.
        options: Further options of sbatch, such as `--partition=gpu`.
    """

    def __init__(
        self, program: Sequence[str], slots: int, nodes: int = 1, tasks: int = 1, options: Sequence[str] = ()
    ) -> None:
        for option in options:
            if not option.startswith("--") or "\n" in option:
                raise BadInput(f"sweep.sbatch={option}: is no option of sbatch; write --<name>=<value>.")
        self.program, self.slots, self.nodes, self.tasks, self.options = [*program], slots, nodes, tasks, [*options]
        self._queue = _Queue()

    def taken(self, slot: int, directory: Path) -> AbstractContextManager[bool]:
        """SLURM gives out the devices."""
        return nullcontext(True)

    def start(self, job: Job, slot: int, environment: Mapping[str, str]) -> Started:
        """Send a job; see `Starter`."""
        place = job.directory.parent / PLACE / str(job.number)
        try:
            number = place.read_text(encoding="utf-8").strip()
            if self._queue.state(number, time.monotonic()) != "":
                return _Sent(place, number, self._queue)
        except OSError:
            pass
        place.with_suffix(".exit").unlink(missing_ok=True)
        own = {**without_launchers(os.environ), **environment, ID_VARIABLE: job.run_id}
        sent = _call(["sbatch", "--parsable", *self.options], self._script(job, place), own)
        if sent.returncode:
            raise Failure(f"sbatch: {' '.join(sent.stderr.split()) or 'failed'}")
        number = sent.stdout.strip().partition(";")[0]
        write_text(place, f"{number}\n")
        return _Sent(place, number, self._queue)

    def _script(self, job: Job, place: Path) -> str:
        options = {
            "job-name": job.run_id,
            "nodes": self.nodes,
            "ntasks-per-node": self.tasks,
            "output": job.directory.absolute() / LOG,
            "open-mode": "append",
        }
        words = [*self.program, *job.overrides, f"paths.run_dir={job.directory}"]
        lines = [f"#SBATCH --{name}={_quoted(value)}" for name, value in options.items()]
        end = shlex.quote(str(place.absolute().with_suffix(".exit")))
        run = f"srun --kill-on-bad-exit=1 {shlex.join(words)}"
        return "\n".join(["#!/bin/bash", *lines, run, "code=$?", f"echo $code > {end}", "exit $code", ""])


class _Queue:
    """The user's jobs that wait or run, asked for at most every few seconds."""

    def __init__(self) -> None:
        self._states: dict[str, str] | None = None
        self._asked = -_PAUSE

    def state(self, number: str, since: float) -> str | None:
        """The state of a job that was sent at `since`: "" of one that has ended; None where SLURM does not answer."""
        if self._asked < since or time.monotonic() - self._asked >= _PAUSE:
            self._asked = time.monotonic()
            shown = _call(["squeue", "--me", "--noheader", "--format=%i %T"])
            lines = [text.split() for text in shown.stdout.splitlines()]
            self._states = None if shown.returncode else {words[0]: words[1] for words in lines if len(words) == 2}
        return None if self._states is None else self._states.get(number, "")


class _Sent:
    """A job that SLURM has."""

    def __init__(self, place: Path, number: str, queue: _Queue) -> None:
        self.place, self.number, self.queue, self._since = place, number, queue, time.monotonic()
        self._stopping = False

    def poll(self) -> int | None:
        if (state := self.queue.state(self.number, self._since)) != "":
            if self._stopping and state == "PENDING":  # by requeue=true it is in the queue again
                self.kill()
                self._stopping = False
            return None
        try:
            return int(self.place.with_suffix(".exit").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # it was ended from outside
            shown = _call(["scontrol", "--oneliner", "show", "job", self.number]).stdout.split()
            state = next((word.partition("=")[2] for word in shown if word.startswith("JobState=")), "")
            return _CODES.get(state, 1)

    def stop(self) -> None:
        waits = self.queue.state(self.number, time.monotonic()) == "PENDING"
        _call(["scancel", *([] if waits else ["--signal=TERM"]), self.number])
        self._stopping = not waits

    def kill(self) -> None:
        _call(["scancel", self.number])


def _call(
    words: Sequence[str], text: str | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            words, input=text, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", "no answer within 60 s")
    except OSError as error:
        raise Failure(f"{words[0]}: {error.strerror or error}; sweep=slurm runs where SLURM's commands are.") from None


def _quoted(value: object) -> str:
    """A file name for sbatch, in which percent signs are doubled, as sbatch replaces `%j` and the like."""
    text = str(value).replace("%", "%%")
    return '"' + text.replace('"', '\\"') + '"' if any(c.isspace() for c in text) else text
