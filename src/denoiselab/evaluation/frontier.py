"""The frontier: every sampler at every number of network calls, scored on shared noise."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from types import MappingProxyType
from typing import Any

from denoiselab import progress
from denoiselab.cleaning import line
from denoiselab.code_digest import modules_of
from denoiselab.evaluation.cell import FeatureWriteError, Scoring, Subject
from denoiselab.evaluation.contracts import INFINITY, Growing, Measure, Scorer
from denoiselab.evaluation.decided import Outcome, UntilDecided
from denoiselab.evaluation.plans import Control, Plan, Run, identity_of, record_of, write_files
from denoiselab.evaluation.ranks import is_first_rank, on_first_rank
from denoiselab.evaluation.records import Record, comparable, in_json, rule
from denoiselab.evaluation.standing import Stopping, Undecidable
from denoiselab.evaluation.store import Store, find, mark_code
from denoiselab.guidance import Guidance
from denoiselab.model import digest
from denoiselab.samplers import Sampler
from denoiselab.samplers.spacing import is_one_call
from denoiselab.schedules import Schedule


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
        guidance: Scales and rules.
        rescore: Score cells again that other code has scored, and keep both; and those whose influences are lost, or
            which lack scores of `Measure.beside`. If false, reuse those scores.
        first: Index of the first sample of all cells: they are `first` to `first` + `num_samples` - 1.
        stopping: Draw until it is decided which cells are better, each as many samples as that takes; None:
            `num_samples` a cell.

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
        guidance: Sequence[Guidance] = (Guidance(),),
        *,
        rescore: bool = False,
        first: int = 0,
        stopping: Stopping | None = None,
    ) -> None:
        if not samplers:
            raise ValueError("evaluation.samplers=[]: name at least one sampler.")
        if num_samples < 2:
            raise ValueError(f"evaluation.num_samples={num_samples}: a covariance takes at least 2.")
        if batch_size < 1:
            raise ValueError(f"evaluation.batch_size={batch_size}: it must be at least 1.")
        self.samplers, self.settings = samplers, in_json(settings)
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.weights, self.guidance, self._rescore, self.first = list(weights), list(guidance), rescore, first
        self.cells: list[tuple[str, int]] = []  # (sampler, steps), each once
        self.stopping = stopping
        self.inexact: list[tuple[str, int, int]] = []  # (sampler, budget, NFE) where they differ
        self.as_one: list[tuple[str, int]] = []  # (sampler, NFE) of cells that end where one call does
        self.calls: list[int] = []  # of each cell; 1 if not known before
        for name, sampler in samplers.items():
            if sampler.adaptive:
                self.cells.append((name, sampler.steps))
                self.calls.append(1)
                continue
            if sampler.own_steps:
                self.cells.append((name, sampler.steps))
                self.calls.append(sampler.nfe(sampler.steps, schedule))
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
                    if spends == len(levels := sampler.grid(schedule, steps)) - 1 and _plain(sampler):
                        self.as_one += [(name, spends)] if is_one_call(levels) else []
        if not weights or not guidance:
            raise ValueError("evaluation.weights, guidance or guiders=[]: name one at least; else leave it out.")
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
        stored = on_first_rank(store.usable)  # files may change between two reads, or be on another machine
        run = Run(subject, measure, store, protocol, notes, control)
        total = 0 if self.stopping else len(self.weights) * len(self.guidance) * sum(self.calls) * self.num_samples
        with progress.bar("frontier", total, unit="call", shown=control.shown and is_first_rank()) as bar:
            records = self._fixed(run, stored, bar) if self.stopping is None else self._decided(run, self.stopping, bar)
        if is_first_rank():
            records = _stored(store, records, notes)
        return records + _others(records, stored.values())

    def _fixed(self, run: Run, stored: Mapping[str, Record], bar: Any) -> list[Record]:
        """Score the cells of `num_samples` samples that are not stored yet."""
        records: list[Record] = []
        due, scoring = 0, self._scoring(run, bar, self.num_samples)
        alone = on_first_rank(lambda: [one for one in stored.values() if _lacks(run, one)]) if self._rescore else []
        again = {record["cell"] for record in alone}
        with closing(self._plans(run)) as plans:
            for plan in plans:
                reused = None if self._rescore else find(stored.values(), plan.protocol)
                cell = identity_of(plan)["cell"]
                former = None if cell in again else stored.get(cell, reused)
                bar.update(due - bar.n)  # a failed cell did not make all of its calls
                due += self.num_samples * plan.calls
                bar.set_postfix(sampler=line(plan.name), nfe=plan.calls, refresh=False)
                if former is not None:
                    records.append(former)
                    continue
                try:
                    drawn = scoring(plan.guidance, plan.sampler, plan.steps, plan.calls)
                except FeatureWriteError as full:
                    raise run.store.failure(full) from full
                records.append(record_of(run, plan, drawn))
                if is_first_rank():
                    write_files(run, records[-1], drawn)
                    run.store.add(records[-1:])
                run.control.check_cell()
        bar.update(due - bar.n)
        return records

    def _decided(self, run: Run, stopping: Stopping, bar: Any) -> list[Record]:
        """Draw until it is decided which cells are better.

        Raises:
            Undecidable: If samples cannot be added to the measure's statistics, or see `UntilDecided`.
        """
        scorer = run.measure.scorer
        statistics = scorer.statistics(0, run.subject.strata)
        if not isinstance(statistics, Growing):
            raise Undecidable(
                f"stop=decided: scores of {scorer.name} take all samples at once and have a bias that depends on their "
                "number, so cells of different n cannot be compared; allowed: fixed."
            )

        def scoring(n: int, calls: int) -> Scoring:
            bar.total = bar.n + calls
            return self._scoring(run, bar, n)

        def record(outcomes: Sequence[Outcome]) -> list[Record]:
            made = [record_of(run, one.plan, one.drawn) for one in outcomes]
            for own, one in zip(made, outcomes, strict=True):
                against = {made[i]["cell"]: numbers for i, numbers in one.against.items()}
                undecided = {made[i]["cell"]: bound for i, bound in one.undecided.items()}
                own |= {"stop": stopping._asdict(), "stopped": one.reason, "against": against, "undecided": undecided}
                write_files(run, own, one.drawn)
            return made

        until = UntilDecided(
            lambda: self._plans(run), scoring, scorer.metric, statistics.dimension, run.subject.strata, run.store,
            stopping, run.control.check_cell,
        )  # fmt: skip
        try:
            outcomes = until.run()
        except FeatureWriteError as full:
            raise run.store.failure(full) from full
        return on_first_rank(lambda: record(outcomes))

    def _scoring(self, run: Run, bar: Any, n: int) -> Scoring:
        measure = run.measure.beside or run.measure
        return Scoring(run.subject, measure, n, self.batch_size, self.seed, run.control.check, bar, self.first)

    def _plans(self, run: Run) -> Generator[Plan, None, None]:
        """All cells; while one is at hand, the model has its weights."""
        subject, budgets = run.subject, {(name, spends): budget for name, budget, spends in self.inexact}
        involved = modules_of(subject.model, subject.steer, *run.measure[:2])
        for weights in self.weights:
            with subject.applied(weights):
                learnt = {name: subject.learn(sampler) for name, sampler in self.samplers.items()}
                own = {**run.protocol, **self._protocol(subject, run.measure, weights)}
                for guidance in self.guidance:
                    of_guider = {*involved, *modules_of(guidance.guider)}
                    for (name, steps), calls in zip(self.cells, self.calls, strict=True):
                        sampler, settings = self.samplers[name], {**self.settings[name], **learnt[name], "steps": steps}
                        cell = {**own, **guidance.facts, "sampler": name, "settings": settings}
                        modules, budget = sorted({*of_guider, *modules_of(sampler)}), budgets.get((name, calls), calls)
                        yield Plan(sampler, name, guidance, steps, calls, budget, cell, modules)

    def _protocol(self, subject: Subject, measure: Measure, weights: str) -> dict[str, Any]:
        """What all cells of these weights depend on."""
        scorer, reference = measure.scorer, measure.reference
        return {
            "metric": scorer.metric if self.stopping is None else _unbiased(scorer),
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


def _lacks(run: Run, record: Record) -> bool:
    """Whether influences of a stored record are lost, or scores that are asked for beside its own are not there."""
    beside = run.measure.beside
    wanted = set() if beside is None or record["error"] else {*beside.scorer.lower_is_better}
    return run.store.lost(record) or not wanted <= {*record["scores"]}


def _plain(sampler: Sampler) -> bool:
    """Whether steps are transfers of predicted x0, however long; other rules may not end there."""
    return not sampler.path_dependent and sampler.measurement is None


def _series(record: Record) -> tuple[Any, ...]:
    """Identity of a line in the chart."""
    keys = ("weights", "guidance", "guider", "classifier_scale", "sampler")
    return tuple(json.dumps(record.get(key), sort_keys=True) for key in keys)


def _model(record: Record) -> tuple[Any, ...]:
    """Identity of the model."""
    return record.get("model_sha256"), record.get("weights_sha256")


def _unbiased(scorer: Scorer[Any, Any]) -> str:
    """The primary metric at infinitely many samples, if there is one, as cells of different n are compared."""
    infinite = scorer.metric + INFINITY
    return infinite if infinite in scorer.lower_is_better else scorer.metric
