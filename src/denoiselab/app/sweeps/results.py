"""What a job of a sweep writes about itself."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from denoiselab.app.runs.devices import is_leader
from denoiselab.app.sweeps.records import TRIAL, Job, Sweep, alive, job_of, key_of
from denoiselab.errors import BadInput
from denoiselab.training.interruption import PRUNED

# Of a record of a cell, what says which one it is.
_CELL = ("sampler", "nfe", "steps", "weights", "guidance", "guider", "score", "standard_error", "metric", "seed")


@dataclass(frozen=True)
class Outcome:
    """What a training is worth.

    Args:
        value: To be minimised; infinity for none.
        record: The best cell; None where it is not of a frontier.
        images_seen: Length of the training.
        error: Why there is no value, in a sentence.
    """

    value: float
    record: Mapping[str, Any] | None = None
    images_seen: int | None = None
    error: str | None = None


@contextmanager
def recorded(directory: Path, overrides: Sequence[str]) -> Iterator[Callable[[Outcome], None]]:
    """Within it, how a job of a sweep goes is in its `result.json`; other runs, and ranks above 0, write nothing.

    Args:
        directory: Of the run.
        overrides: Of the job, for those that the sweep's record does not know.
    """
    number = job_of(directory)
    if number is None or not is_leader():
        yield lambda outcome: None
        return
    sweep = Sweep.read(directory.absolute().parent)
    own = sweep.planned.get(number) or tuple(text for text in overrides if key_of(text) != "paths.run_dir")
    former = Job.read(directory, own)
    by_hand = former.status == "running" and TRIAL not in os.environ  # of its sweep's, the worker has said so
    job = Job(number, directory, own, "running", metric=sweep.metric, run_id=f"{sweep.id}-{number}", started=now())
    with alive(directory):
        job.write()
        outcomes: list[Outcome] = []
        try:
            yield outcomes.append
        except BaseException as error:
            kept = isinstance(error, BadInput) and (former.finished or by_hand)  # this start has changed nothing
            (former if kept else ended_by(job, error)).write()
            raise
        _done(job, outcomes[0]).write()


def _done(job: Job, outcome: Outcome) -> Job:
    record = outcome.record or {}
    return replace(
        job,
        status="done",
        value=outcome.value if math.isfinite(outcome.value) else None,
        cell={name: record[name] for name in _CELL if name in record} or None,
        n=record.get("n"),
        images_seen=outcome.images_seen,
        error=outcome.error,
        ended=now(),
    )


def ended_by(job: Job, error: BaseException) -> Job:
    """A job that ended by an exception."""
    code = getattr(error, "code", None) if isinstance(error, SystemExit) else None
    text = " ".join(str(getattr(error, "advice", "") or error).split()) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        code, text = 130, "interrupted."
    status = {PRUNED: "pruned", 130: "stopped", 143: "stopped"}.get(code or 0, "failed")
    value: Any = getattr(error, "value", None)
    return replace(job, status=status, value=value, error=text, ended=now())


def now() -> str:
    """The time, in ISO format."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
