"""The frontier: every sampler at every number of network calls, scored on shared noise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from denoiselab import progress
from denoiselab.cleaning import line
from denoiselab.code_digest import modules_of, sha256_of_code
from denoiselab.evaluation.cell import FeatureWriteError, Kept, Scoring, Subject
from denoiselab.evaluation.contracts import Measure
from denoiselab.evaluation.ranks import on_first_rank
from denoiselab.evaluation.records import Record, comparable, rule
from denoiselab.evaluation.store import Store, find, key_of, mark_code
from denoiselab.media.kinds import medium
from denoiselab.model import digest
from denoiselab.samplers import Sampler
from denoiselab.schedules import Schedule


class Control(NamedTuple):
    """Interruption and progress of a run.

    Args:
        check: Called between sampling steps; an exception stops the run.
        check_cell: Called after each cell, by all ranks together.
        shown: Whether the first rank shows a progress bar.
    """

    check: Callable[[object], None] = lambda moment: None
    check_cell: Callable[[], None] = lambda: None
    shown: bool = True


class Frontier:
    """Scores cells (weights, guidance, sampler, NFE) against a reference; each cell is stored at once.

    Args:
        samplers: Name to sampler.
        settings: The configuration of each sampler, by name.
        schedule: Along which they sample.
        nfe: Budgets of network calls; a sampler that cannot spend one exactly uses the most it can below it. An
            adaptive sampler has one cell, at the mean number of calls of its samples.
        extra_nfe: Further budgets of single samplers, by name; names not among `samplers` are ignored.
        num_samples: Samples a cell, the same for all.
        batch_size: Samples a network call; it does not change them.
        seed: Sample i is a function of (seed, i).
        weights: Names of the weights to score.
        guidance: Scales of classifier-free guidance; 1 is the conditional model.
        rescore: Score cells again that other code has scored, and keep both; if false, reuse those scores.
        first: Index of the first sample of all cells: they are `first` to `first` + `num_samples` - 1.

    Raises:
        ValueError: If there is no sampler or no budget, a budget is too small for a sampler, or a number out of range.
    """

    def __init__(
        self,
        samplers: Mapping[str, Sampler],
        settings: Mapping[str, Any],
        schedule: Schedule,
        nfe: Sequence[int],
        extra_nfe: Mapping[str, Sequence[int]],
        num_samples: int,
        batch_size: int,
        seed: int,
        weights: Sequence[str],
        guidance: Sequence[float] = (1.0,),
        *,
        rescore: bool = False,
        first: int = 0,
    ) -> None:
        if not samplers:
            raise ValueError("evaluation.samplers=[]: name at least one sampler.")
        if num_samples < 2:
            raise ValueError(f"evaluation.num_samples={num_samples}: a covariance takes at least 2.")
        if batch_size < 1:
            raise ValueError(f"evaluation.batch_size={batch_size}: it must be at least 1.")
        self.samplers, self.settings = samplers, settings
        self.num_samples, self.batch_size, self.seed = self._numbers = num_samples, batch_size, seed
        self.weights, self.guidance, self._rescore, self.first = list(weights), list(guidance), rescore, first
        self.cells: list[tuple[str, int]] = []  # (sampler, steps), each once
        self.inexact: list[tuple[str, int, int]] = []  # (sampler, budget, NFE) where they differ
        self.calls: list[int] = []  # of each cell; 1 if not known before
        for name, sampler in samplers.items():
            if sampler.adaptive:
                self.cells.append((name, sampler.steps))
                self.calls.append(1)
                continue
            for budget in sorted({*nfe, *extra_nfe.get(name, ())}):
                try:
                    steps = sampler.steps_for(budget, schedule)
                    spends = sampler.nfe(steps, schedule)
                except ValueError as error:
                    raise ValueError(f"evaluation.nfe: sampler {name}: {error}") from None
                if spends != budget:
                    self.inexact.append((name, budget, spends))
                if (name, steps) not in self.cells:
                    self.cells.append((name, steps))
                    self.calls.append(spends)
        if not weights or not guidance:
            raise ValueError("evaluation.weights or guidance=[]: name at least one; leave it out for the default.")
        if not self.cells:
            raise ValueError("evaluation.nfe=[]: name at least one budget of network calls.")

    def run(
        self,
        subject: Subject,
        measure: Measure,
        store: Store,
        protocol: Mapping[str, Any],
        notes: Mapping[str, Any] = MappingProxyType({}),
        control: Control = Control(),
    ) -> list[Record]:
        """Score all cells that are not stored yet. A cell that fails is stored as failed, and the rest goes on.

        Returns one record a cell, and those in `store` of the same model, measure and number of samples.

        Args:
            subject: The model.
            measure: Scores it.
            store: Where finished cells go; cells of the same protocol that it holds are reused.
            protocol: What a score depends on besides the cell: training, data, versions.
            notes: Other fields of the records, on which no score depends.
            control: Interruption and progress.

        Raises:
            OSError: If a cell cannot be written.
        """
        rank = dist.get_rank() if dist.is_initialized() else 0
        stored = on_first_rank(store.usable)  # files may change between two reads, or be on another machine
        involved = modules_of(subject.model, subject.steer, *measure)
        records: list[Record] = []
        total, due = len(self.weights) * len(self.guidance) * sum(self.calls) * self.num_samples, 0
        with progress.bar("frontier", total, unit="call", shown=control.shown and rank == 0) as bar:
            scoring = Scoring(subject, measure, *self._numbers, control.check, bar, self.first)
            for weights in self.weights:
                with subject.applied(weights):
                    learnt = {name: subject.learn(sampler) for name, sampler in self.samplers.items()}
                    own = {**protocol, **self._protocol(subject, measure, weights)}
                    for guidance, name, steps, calls in self._cells():
                        sampler, settings = self.samplers[name], {**self.settings[name], **learnt[name], "steps": steps}
                        cell = {**own, "guidance": guidance, "sampler": name, "settings": settings}
                        identity = _identity(cell, sorted({*involved, *modules_of(sampler)}))
                        reused = None if self._rescore else find(stored.values(), cell)
                        former = stored.get(identity["cell"], reused)
                        bar.update(due - bar.n)  # a failed cell did not make all of its calls
                        due += self.num_samples * calls
                        bar.set_postfix(sampler=line(name), nfe=calls, refresh=False)
                        if former is not None:
                            records.append(former)
                            continue
                        try:
                            measured, first, influences = scoring(guidance, sampler, steps, calls)
                        except FeatureWriteError as full:
                            raise store.failure(full) from full
                        now = datetime.now(UTC).isoformat(timespec="seconds")
                        records.append({"sampler": name, **measured, **cell, **notes, "scored": now, **identity})
                        if rank == 0:
                            _write(store, records[-1], subject, first, influences)
                        control.check_cell()
            bar.update(due - bar.n)
        if rank == 0:
            records = _stored(store, records, notes)
        return records + _others(records, stored.values())

    def _protocol(self, subject: Subject, measure: Measure, weights: str) -> dict[str, Any]:
        """What all cells of these weights depend on."""
        scorer, reference = measure
        return {
            "metric": scorer.metric,
            "n": self.num_samples,
            "seed": self.seed,
            **({"first": self.first} if self.first else {}),
            "extractor": scorer.name,
            "extractor_sha256": scorer.fingerprint,
            "reference_n": reference.n,
            "reference_sha256": reference.fingerprint,
            "dtype": "float32",
            "weights": weights,
            "weights_sha256": digest(subject.model.denoiser),
        }

    def _cells(self) -> Iterator[tuple[float, str, int, int]]:
        """(guidance, sampler, steps, calls)."""
        for guidance in self.guidance:
            for (name, steps), calls in zip(self.cells, self.calls, strict=True):
                yield guidance, name, steps, calls


def _identity(cell: Mapping[str, Any], modules: list[str]) -> dict[str, Any]:
    """The hashes of a cell's protocol, of the code that scores it, and of both."""
    code = {"code_sha256": sha256_of_code(modules)}
    return {"protocol_sha256": key_of(cell), **code, "code_modules": modules, "cell": key_of({**cell, **code})}


def _write(store: Store, record: Record, subject: Subject, first: Tensor, influences: Kept) -> None:
    """Store a record, the picture of the cell's first samples and the influences of its scores."""
    if record["error"] is None:
        with store.writing():
            medium(subject.model.codec.shape).write_cell(store.picture(record), first)
        store.keep(record, influences)
    store.add([record])


def _stored(store: Store, records: list[Record], notes: Mapping[str, Any]) -> list[Record]:
    """The records as they are in the store, with their Pareto marks."""
    store.add(records)
    marked = store.read()
    # An edited file may name any file as its reference.
    known = {key: notes[key] for key in ("reference_file",) if key in notes}
    return [{**marked[record["cell"]], **known} for record in records]


def _others(records: Sequence[Record], stored: Collection[Record]) -> list[Record]:
    """Stored records of the same model that are shown together with `records` and are not replaced by them."""
    mark_code(stored)
    groups, cells = {comparable(record) for record in records}, {(_series(r), r["nfe"]) for r in records}
    rules = {_series(record): rule(record) for record in records}
    models = {record["weights"]: _model(record) for record in records}
    return [
        record
        for record in stored
        if comparable(record) in groups
        and (_series(record), record["nfe"]) not in cells
        and models.get(record["weights"], _model(record)) == _model(record)
        and rules.get(_series(record), rule(record)) == rule(record)
    ]


def _series(record: Record) -> tuple[Any, ...]:
    """Identity of a line in the chart."""
    return tuple(record.get(key) for key in ("weights", "guidance", "classifier_scale", "sampler"))


def _model(record: Record) -> tuple[Any, ...]:
    """Identity of the model."""
    return record.get("model_sha256"), record.get("weights_sha256")
