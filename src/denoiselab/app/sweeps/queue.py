"""The queue of a sweep: a journal of Optuna's in its directory, which several workers share.

A trial of the journal is one attempt at a job. A lock that the operating system takes back says which workers and jobs
are alive, as heartbeats do not exist for journals.
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from denoiselab.app.sweeps.records import Job, alive, lives
from denoiselab.app.sweeps.search import Search
from denoiselab.errors import BadInput

JOURNAL = "journal.log"
_WORKERS = ".workers"


def study_of(directory: Path, **parts: Any) -> Any:
    """Optuna's study of the sweep in a directory, made if there is none.

    Args:
        directory: Of the sweep.
        parts: `sampler` or `pruner`.

    Raises:
        BadInput: If its journal is damaged.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = directory / JOURNAL
    lock = JournalFileSymlinkLock(str(path))
    _end_line(path, lock)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock))
        return optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True, **parts)
    except json.JSONDecodeError as error:
        raise BadInput(
            f"{path}: damaged ({error}); remove it: the jobs of a grid that are done are known by their own records."
        ) from None


def _end_line(path: Path, lock: Any) -> None:
    """Cut off a last line that is not whole, as its writer was killed: the next one would be written behind it."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with path.open("rb+") as file:
            content = file.read()
            if not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


@dataclass(frozen=True)
class Claim:
    """An attempt at a job that this worker is to make.

    Args:
        trial: Number of the trial.
        id: Id of the trial in the journal.
        job: Number of the job.
        overrides: Of the job, those of a search; empty for a job that was planned.
    """

    trial: int
    id: int
    job: int
    overrides: tuple[str, ...] = ()


class Queue:
    """The queue of a sweep, as one worker sees it.

    Args:
        directory: Of the sweep.
        search: Proposes jobs when none waits; None where all are planned.
        extra: Further overrides of the jobs that are proposed.
    """

    def __init__(self, directory: Path, search: Search | None = None, extra: tuple[str, ...] = ()) -> None:
        self.directory, self.search, self.extra = directory, search, extra
        self.worker = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._lock = FileLock(directory / ".queue.lock")
        self._stack = ExitStack()
        with self._lock:
            self.study = study_of(directory)

    def __enter__(self) -> Queue:
        self._stack.enter_context(alive(self._place(self.worker)))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def plan(self, jobs: Iterable[int]) -> None:
        """Let planned jobs wait, those that do not yet."""
        with self._lock:
            known = {attempt.user_attrs.get("job") for attempt in self._trials()}  # none where a worker was killed
            for job in sorted({*jobs} - known):
                self.study.enqueue_trial({}, user_attrs={"job": job})

    def claim(self) -> Claim | None:
        """The next job: one that waits, or one that the search proposes; None if there is none."""
        from optuna.trial import TrialState

        with self._lock:
            trials = self._trials()
            jobs = {trial.user_attrs["job"] for trial in trials if "job" in trial.user_attrs}
            waits = any(trial.state == TrialState.WAITING for trial in trials)
            if not waits and (self.search is None or len(jobs) >= self.search.trials):
                return None
            if self.search is not None:
                self.study.sampler = self.search.sampler_for(len(trials))
            asked = self.study.ask({} if self.search is None else self.search.space)
            job = asked.user_attrs.get("job", max(jobs, default=-1) + 1)
            asked.set_user_attr("job", job)
            asked.set_user_attr("worker", self.worker)
            own = () if self.search is None else (*self.search.overrides(asked.params), *self.extra)
            return Claim(asked.number, asked._trial_id, job, own)

    def settle(self, trial: int, job: Job) -> None:
        """Note how an attempt at a job ended, unless that is known."""
        from optuna.trial import TrialState

        states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        state = states.get(job.status, TrialState.FAIL)
        with self._lock:
            if not self._trials()[trial].state.is_finished():
                value = math.inf if job.value is None else job.value
                self.study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)

    def orphans(self) -> list[tuple[int, Job]]:
        """Attempts that run, whose worker is gone: number of the trial, and the job as it is now."""
        from optuna.trial import TrialState

        found = []
        with self._lock:  # a trial that another worker is just claiming has no worker yet
            trials = self._trials()
        for trial in trials:
            worker = trial.user_attrs.get("worker")
            if trial.state == TrialState.RUNNING and not (worker and lives(self._place(worker))):
                number = trial.user_attrs.get("job")  # none yet where the worker was killed as it asked
                job = Job(-1, self.directory) if number is None else Job.read(self.directory / str(number))
                found.append((trial.number, job))
        return found

    def again(self) -> list[Job]:
        """Let jobs wait again that failed or were stopped, or whose record is gone; returns them as they were."""
        for trial, job in self.orphans():
            if job.status != "running":
                self.settle(trial, job)
        with self._lock:
            trials = self._trials()
            last = {trial.user_attrs["job"]: trial for trial in trials if "job" in trial.user_attrs}
            jobs = []
            for number, trial in sorted(last.items()):
                job = Job.read(self.directory / str(number))
                if trial.state.name in ("WAITING", "RUNNING") or job.finished or job.status == "running":
                    continue
                self.study.enqueue_trial(trial.params, user_attrs={"job": number})
                jobs.append(job)
            return jobs

    def _trials(self) -> list[Any]:
        trials: list[Any] = self.study.get_trials(deepcopy=False)
        return trials

    def _place(self, worker: str) -> Path:
        return self.directory / _WORKERS / worker
