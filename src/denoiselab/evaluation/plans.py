"""Cells of a frontier that are to be scored, and their records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from denoiselab.code_digest import sha256_of_code
from denoiselab.evaluation.cell import Subject
from denoiselab.evaluation.contracts import Measure
from denoiselab.evaluation.drawn import Drawn
from denoiselab.evaluation.records import Record
from denoiselab.evaluation.store import Store, key_of
from denoiselab.guidance import Guidance
from denoiselab.media.kinds import medium
from denoiselab.samplers import Sampler


class Control(NamedTuple):
    """Interruption and progress of a run.

    Attributes:
        check: Called between sampling steps; an exception stops the run.
        check_cell: Called after each cell, by all ranks together.
        shown: Whether the first rank shows a progress bar.
    """

    check: Callable[[object], None] = lambda moment: None
    check_cell: Callable[[], None] = lambda: None
    shown: bool = True


class Run(NamedTuple):
    """What a frontier is scored with; see `Frontier.run`."""

    subject: Subject
    measure: Measure
    store: Store
    protocol: Mapping[str, Any]
    notes: Mapping[str, Any]
    control: Control


class Plan(NamedTuple):
    """A cell to be scored.

    Attributes:
        sampler: Its rule.
        name: Of the sampler.
        guidance: Scale and rule.
        steps: Of the sampler.
        calls: Network calls a sample, if known before; else 1.
        budget: The number of calls that was asked for.
        protocol: All that its score depends on, but for the code.
        code: The modules that score it.
    """

    sampler: Sampler
    name: str
    guidance: Guidance
    steps: int
    calls: int
    budget: int
    protocol: dict[str, Any]
    code: list[str]


def record_of(run: Run, plan: Plan, drawn: Drawn) -> Record:
    """The record of a cell, of as many samples as are drawn."""
    plan = plan._replace(protocol={**plan.protocol, "n": drawn.n})
    primary = drawn.record["scores"].get(plan.protocol["metric"], {})
    score = {key: primary[key] for key in ("value", "standard_error") if primary}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "sampler": plan.name, **drawn.record, **plan.protocol, **run.notes, "scored": now, **identity_of(plan),
        **({"score": score["value"], "standard_error": score["standard_error"]} if score else {}),
    }  # fmt: skip


def identity_of(plan: Plan) -> dict[str, Any]:
    """The hashes of a cell's protocol, of the code that scores it, and of both."""
    cell, code = plan.protocol, {"code_sha256": sha256_of_code(plan.code)}
    return {"protocol_sha256": key_of(cell), **code, "code_modules": plan.code, "cell": key_of({**cell, **code})}


def write_files(run: Run, record: Record, drawn: Drawn) -> None:
    """Write the picture of the cell's first samples and the influences of its scores, before its record."""
    if record["error"] is None:
        with run.store.writing():
            medium(run.subject.model.codec.shape).write_cell(run.store.picture(record), drawn.first)
        run.store.keep(record, drawn.influences)
