"""A worker of a sweep: takes jobs from the queue, starts them in its slots, and notes how they end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from denoiselab.app.sweeps.queue import Claim, Queue
from denoiselab.app.sweeps.records import TRIAL, Job, Sweep, alive
from denoiselab.app.sweeps.results import now
from denoiselab.app.sweeps.starters import Started, Starter, last_line
from denoiselab.errors import Failure
from denoiselab.training.interruption import PRUNED, Interruption, Stopped

# Seconds between two checks of whether jobs have ended.
_PAUSE = 0.1


@dataclass
class _Slot:
    claim: Claim
    job: Job
    started: Started
    since: float
    life: ExitStack  # the job counts as alive while this worker waits for it, also where it has not begun


def work(sweep: Sweep, queue: Queue, starter: Starter, say: Callable[[str], object], advice: str) -> None:
    """Run jobs until none is left.

    A signal to stop goes on to the jobs, which save; when all have ended, `Stopped` is raised.

    Args:
        sweep: Whose jobs are to be run.
        queue: Entered by this worker.
        starter: Starts them.
        say: Takes a line for each start and end.
        advice: What to do after a stop, in a sentence.

    Raises:
        Stopped: After a signal.
        Failure: If a job could not be started; no further one is, and those that run go on to their end first.
    """
    slots: dict[int, _Slot] = {}
    asked, told, busy, refused = False, False, 0, None
    with Interruption(advice) as stop:
        try:
            while True:
                for number, slot in [*slots.items()]:
                    if (code := slot.started.poll()) is not None:
                        del slots[number]
                        say(_end(sweep, queue, slot, code))
                if stop.signal is None and refused is None:
                    busy, refused = _fill(sweep, queue, starter, slots, say)
                    if busy and not told:
                        told = True
                        say(f"{busy} slot(s) wait for devices that jobs of another worker have, or of one that is gone")
                elif stop.signal is not None and not asked:
                    asked = True
                    say(f"stopping: {len(slots)} job(s) save and end; a second Ctrl-C ends them at once.")
                    for slot in slots.values():
                        slot.started.stop()
                ending = stop.signal is not None or refused is not None
                if not slots and (ending or not (busy or _waits(queue))):
                    break
                time.sleep(_PAUSE)
            stop.check()
            if refused is not None:
                raise refused
        except Stopped:
            for slot in slots.values():  # at the second Ctrl-C
                slot.started.kill()
                say(_end(sweep, queue, slot, -signal.SIGKILL))
            raise
        except BaseException:
            for slot in slots.values():
                slot.started.stop()
            raise


def _fill(
    sweep: Sweep, queue: Queue, starter: Starter, slots: dict[int, _Slot], say: Callable[[str], object]
) -> tuple[int, Failure | None]:
    """Start jobs in free slots; how many wait for devices that other jobs have, and why a job could not be started."""
    busy = 0
    for number in sorted({*range(starter.slots)} - slots.keys()):
        with starter.taken(number, sweep.directory) as taken:
            if not taken:
                busy += 1
                continue
            if (claim := queue.claim()) is None:
                return 0, None
            try:
                slots[number] = _start(sweep, queue, starter, claim, number)
            except Failure as error:
                say(f"job {claim.job}: {error} No further job is started; {len(slots)} go on.")
                return busy, error
            own = " ".join(sweep.own(slots[number].job))
            say(f"job {claim.job} started: {own}")
    return busy, None


def _waits(queue: Queue) -> bool:
    """Whether a job goes on whose worker is gone; those that have ended are noted."""
    left = False
    for trial, job in queue.orphans():
        if job.status == "running":
            left = True
        else:
            if job.status == "stopped":  # what its record could not say itself
                job.write()
            queue.settle(trial, job)
    return left


class _Ended:
    """A job that has ended well since it was put into the queue, as those of SLURM do that outlive their sweep."""

    def poll(self) -> int:
        return 0

    def stop(self) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        """Nothing runs."""


def _start(sweep: Sweep, queue: Queue, starter: Starter, claim: Claim, slot: int) -> _Slot:
    former = Job.read(sweep.directory / str(claim.job))
    if former.finished:
        return _Slot(claim, former, _Ended(), time.monotonic(), ExitStack())
    job = Job(
        number=claim.job,
        directory=sweep.directory / str(claim.job),
        overrides=sweep.planned.get(claim.job) or claim.overrides,
        status="running",
        metric=sweep.metric,
        run_id=f"{sweep.id}-{claim.job}",
        started=now(),
    )
    job.directory.mkdir(parents=True, exist_ok=True)
    job.write()
    life = ExitStack()
    life.enter_context(alive(job.directory))
    try:
        started = starter.start(job, slot, {TRIAL: str(claim.id)})
    except Failure as error:
        life.close()
        job = replace(job, status="failed", error=str(error), ended=now())
        job.write()
        queue.settle(claim.trial, job)
        raise
    return _Slot(claim, job, started, time.monotonic(), life)


def _end(sweep: Sweep, queue: Queue, slot: _Slot, code: int) -> str:
    """Note how a job ended: by its own record, else by its exit code."""
    job = Job.read(slot.job.directory, slot.job.overrides, as_written=True)
    if job.status == "running":
        status = {0: "done", PRUNED: "pruned", 130: "stopped", 143: "stopped"}.get(code, "failed")
        signalled = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        line = last_line(job.directory)
        error = None if code == 0 else f"{signalled}: {line}" if line else f"{signalled}."
        job = replace(
            job, status="stopped" if code in (-signal.SIGINT, -signal.SIGTERM) else status, error=error, ended=now()
        )
        job.write()
    queue.settle(slot.claim.trial, job)
    slot.life.close()
    value = f" {sweep.metric} {job.value:.4g}" if job.value is not None else ""
    seconds = time.monotonic() - slot.since
    return f"job {job.number} {job.status} after {seconds:.0f} s:{value} {job.error or ''}".rstrip(" :")
