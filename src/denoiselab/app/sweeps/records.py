"""What a sweep's directory says: `sweep.json`, and the `result.json` of each job."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from denoiselab.app.config.spelling import override
from denoiselab.app.runs.names import SWEEP_RECORD
from denoiselab.errors import BadInput
from denoiselab.files import read_json, write_json

FORMAT = 1
MANIFEST = SWEEP_RECORD
RESULT = "result.json"
LOG = "job.log"
LOCK = ".job.lock"
TRIAL = "DENOISELAB_SWEEP_TRIAL"  # variable of a job's process: id of its trial in the sweep's journal


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Args:
        number: Its number, the name of its folder.
        directory: Its folder, the directory of its run.
        overrides: Of the program, without `paths.run_dir`.
        status: `waiting` (not started), `running`, `done`, `pruned` (stopped by the sweep, as others are better),
            `stopped` (by a signal, or without a word) or `failed`.
        value: What the sweep minimises; None for none yet, and for a run all of whose cells failed. Of a pruned job
            the last value that it reported.
        metric: The name of the value.
        cell: The best cell of the frontier: sampler, NFE, weights, guidance and so on; None for none.
        n: Samples of that cell.
        images_seen: Length of the training.
        error: What went wrong, in a sentence.
        run_id: Id of the job's run.
        started: ISO time; None before.
        ended: ISO time; None before.
    """

    number: int
    directory: Path
    overrides: tuple[str, ...] = ()
    status: str = "waiting"
    value: float | None = None
    metric: str = ""
    cell: Mapping[str, Any] | None = None
    n: int | None = None
    images_seen: int | None = None
    error: str | None = None
    run_id: str = ""
    started: str | None = None
    ended: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the job is not to be run again."""
        return self.status in ("done", "pruned")

    @classmethod
    def read(cls, directory: Path, overrides: tuple[str, ...] = (), *, as_written: bool = False) -> Job:
        """The job in a folder; a damaged record counts as none.

        Args:
            directory: Of the job; it need not exist.
            overrides: As the sweep's record has them; else those of the job's own.
            as_written: Whether a job that was killed, and whose record says that it runs, is left so.
        """
        number = int(directory.name)
        try:
            found = read_json(directory / RESULT)
        except FileNotFoundError:
            return cls(number, directory, overrides)
        except (ValueError, OSError) as error:
            return cls(number, directory, overrides, "stopped", error=f"{RESULT}: {error}.")
        names = ("status", "value", "metric", "cell", "n", "images_seen", "error", "run_id", "started", "ended")
        own = overrides or tuple(found.get("overrides") or ())
        job = cls(number, directory, own, **{name: found[name] for name in names if name in found})
        if job.status == "running" and not as_written and not lives(directory):
            gone = "it ended without a word: its process was killed, or its machine is gone."
            return cls(**{**vars(job), "status": "stopped", "error": gone})
        return job

    def write(self) -> None:
        """Write `result.json` atomically."""
        content = {name: value for name, value in vars(self).items() if name not in ("number", "directory")}
        own = {**content, "overrides": [*self.overrides]}
        write_json(self.directory / RESULT, {"format": FORMAT, "job": self.number, **own})


@dataclass(frozen=True)
class Sweep:
    """A sweep.

    Args:
        directory: Its directory.
        id: Of the sweep; runs of its jobs have `<id>-<number>`, and trackers group them by it.
        launcher: What starts its jobs: `processes`, or the name of a launcher of Hydra's.
        swept: Keys of the options that are swept.
        metric: What is optimised, `optimized_metric`.
        direction: `minimize`.
        command: Of the program that was started, as words.
        planned: Number to overrides of the jobs that are known before the first one.
        options: Of the launcher, as `sweep.` has them.
        jobs: All jobs, those that a search has added too, by number.
    """

    directory: Path
    id: str
    launcher: str
    swept: tuple[str, ...]
    metric: str
    command: tuple[str, ...]
    planned: Mapping[int, tuple[str, ...]]
    options: Mapping[str, Any] = field(default_factory=dict)
    direction: str = "minimize"
    jobs: tuple[Job, ...] = ()

    @classmethod
    def read(cls, directory: Path, option: str = "sweep") -> Sweep:
        """The sweep in a directory, as it is now.

        Args:
            directory: Of the sweep.
            option: What the user has named it by, for messages.

        Raises:
            BadInput: If there is none, or its record is damaged.
        """
        path = directory / MANIFEST
        try:
            found = read_json(path)
            planned = {int(number): tuple(words) for number, words in found["jobs"].items()}
            sweep = cls(
                directory,
                found["id"],
                found["launcher"],
                tuple(found["swept"]),
                found["optimized_metric"],
                tuple(found["command"]),
                planned,
                found["options"],
                found["direction"],
            )
        except OSError as error:
            raise BadInput(f"{option}={directory}: no {MANIFEST} there ({error.strerror}); name a sweep.") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}: damaged ({error}).") from None
        folders = {int(p.parent.name) for p in directory.glob(f"*/{RESULT}") if p.parent.name.isdecimal()}
        numbers = sorted(folders | planned.keys())
        jobs = (Job.read(directory / str(number), planned.get(number, ())) for number in numbers)
        return cls(**{**vars(sweep), "jobs": tuple(jobs)})

    def write(self) -> None:
        """Write `sweep.json` atomically."""
        content = {
            "format": FORMAT,
            "id": self.id,
            "group": self.id,
            "launcher": self.launcher,
            "swept": [*self.swept],
            "optimized_metric": self.metric,
            "direction": self.direction,
            "command": [*self.command],
            "options": dict(self.options),
            "jobs": {str(number): [*words] for number, words in self.planned.items()},
        }
        write_json(self.directory / MANIFEST, content)

    @property
    def resuming(self) -> str:
        """The command, for a shell, that goes on with a sweep from its queue."""
        places = self.options.get("places")
        words = [override("hydra.searchpath", places)] if places else []
        return " ".join(["python train.py -m", *words, override("sweep.resume", self.directory)])

    def own(self, job: Job) -> list[str]:
        """The overrides of a job that are swept."""
        return [text for text in job.overrides if key_of(text) in self.swept]


def key_of(override: str) -> str:
    """The key of an override, without the signs of adding and deleting."""
    return override.partition("=")[0].lstrip("+~")


def job_of(directory: Path) -> int | None:
    """The number of the job whose folder this is; None for a folder that is no job's."""
    name = directory.absolute().name
    there = name.isdecimal() and (directory.absolute().parent / MANIFEST).is_file()
    return int(name) if there else None


def group_of(directory: Path) -> str | None:
    """The group on trackers of the run in a folder: its sweep's; None of a run that is no job's."""
    try:
        return None if job_of(directory) is None else Sweep.read(directory.absolute().parent).id
    except BadInput:
        return None


@contextmanager
def alive(directory: Path) -> Iterator[int]:
    """Within it the job of a folder counts as alive; gives the descriptor, which a child may inherit.

    The operating system gives the lock back when the last process that has the descriptor ends, however it ends.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield file.fileno()


def lives(directory: Path) -> bool:
    """Whether a process has the lock of a job's folder."""
    for wait in (0.01, 0.02, 0.0):  # another process may be looking at this moment
        try:
            with (directory / LOCK).open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:  # the lock is taken; or the folder is another user's, of whom nothing is known
            time.sleep(wait)
        else:
            return False
    return True
