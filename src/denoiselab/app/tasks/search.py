"""Search over options of sampling: all combinations on the same noise, then the best ones on fresh samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from denoiselab.app.building import checks
from denoiselab.app.building.evaluator import Evaluator
from denoiselab.app.building.guiders import Guided, once
from denoiselab.app.building.search_space import Base, Combination, combinations
from denoiselab.app.commands import outputs
from denoiselab.app.config.settings import SampleSettings
from denoiselab.app.runs.devices import is_leader
from denoiselab.app.runs.paths import checkpoint_file, short_hash
from denoiselab.app.tasks.frontier import Job, evaluation_of, evaluator_of, join_ranks
from denoiselab.app.tasks.measuring import Measuring
from denoiselab.app.tasks.task import check_finite, check_level, check_ranges
from denoiselab.console import console
from denoiselab.errors import BadInput, Failure
from denoiselab.evaluation import Frontier, Store
from denoiselab.evaluation.ranks import on_first_rank
from denoiselab.evaluation.report import searches
from denoiselab.evaluation.report.searches import Scouted
from denoiselab.files import write_json
from denoiselab.from_config import with_hashes
from denoiselab.guidance import Guidance
from denoiselab.pretrained import Loaded, read
from denoiselab.training.checkpoint_files import home_of
from denoiselab.training.interruption import Interruption

# Of a run's directory: where the cells of all its searches are.
_FOLDER = "search"


@dataclass(kw_only=True)
class Search(Measuring):
    """Score all combinations of options on the same noise, then those that may be the best on fresh samples.

    The best of many scores looks better than it is, so its own score is no estimate; that on fresh samples is.

    Each combination is scored with `num_samples` samples, and the chosen ones with as many fresh ones.

    Args:
        over: Option to values: `guidance`, `weights`, `nfe`, `sampler` and `guider` (names of conf/sampler and
            conf/guider; {name: apg, eta: 0.5} has options too), and any option of these as `sampler.<option>`,
            `guider.<option>`; `sampler.spacing` and `sampler.threshold` take names of their choices too.
        nfe: Network calls a sample, where `over` names none; null: those of sampler.steps.
        guidance: Scale of the guider, where `over` names none.
        confirm: Combinations that are scored on fresh samples: the best one, and at most so many in all that tie.
        level: Probability of any wrong verdict.
    """

    over: dict[str, list[Any]] = field(default_factory=dict)
    nfe: int | None = None
    guidance: float = 1.0
    confirm: int = 3
    level: float = 0.05

    shared: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True
    less_memory: ClassVar[str] = "a smaller task.batch_size"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(nfe=self.nfe, confirm=self.confirm)
        check_finite(self.guidance)
        check_level(self.level)

    def check(self, asked: SampleSettings) -> None:
        self._combinations(asked)

    def run(self, asked: SampleSettings) -> Path:
        """Score, choose, and score the chosen ones again; returns the file of the result."""
        path = checkpoint_file(asked.ckpt)
        loaded = read(path, data=asked.data)
        entrants = [_entrant(one, loaded, path) for one in self._combinations(asked)]
        options, shared = self.options(asked), [one.name for one in fields(Measuring)]
        given = {name: options[name] for name in shared if options[name] is not None}
        config, evaluation = evaluation_of(loaded, given)
        numbers = (evaluation.num_samples, evaluation.batch_size, evaluation.seed)
        frontier = _frontier(entrants, loaded, numbers)
        job = Job(path, home_of(path), loaded, frontier, config, evaluation)
        store = Store(Path(asked.out) if asked.out else job.home / _FOLDER)
        stopped = "stopped; the same command goes on after the last combination that was finished."
        with ExitStack() as stack, Interruption(stopped) as interruption:
            evaluator = evaluator_of(job, asked, store, interruption, join_ranks(asked, stack))
            if is_leader():
                outputs.tell_budgets(frontier)
                outputs.tell_diversity(frontier, evaluation, "task")
                _tell_size(entrants, frontier)
            found = _scored(evaluator, job, entrants, frontier)
            chosen = on_first_rank(
                lambda: searches.choices([one.scouted for one in found], store.influences, self.level)
            )
            again = {place for one in chosen for place in [one.best, *one.ties][: self.confirm]}
            fresh = {}
            for place in sorted(again):
                alone = [found[place].entrant]
                later = _frontier(alone, loaded, numbers, first=evaluation.num_samples)
                fresh[place] = _scored(evaluator, job, alone, later)[0].scouted.record
        rivals = on_first_rank(lambda: searches.rivals(chosen, fresh, store.influences, self.level))
        outcome = searches.Outcome([one.scouted for one in found], chosen, fresh, rivals)
        if not chosen:
            raise Failure(f"task=search: all {len(found)} combinations failed: {found[0].scouted.record['error']}")
        facts = [loaded.images_seen, asked.sampler, asked.weights, self.options(asked)]
        out = store.directory / f"search_{short_hash(facts)}.json"
        if is_leader():
            write_json(out, {"over": self.over, "level": self.level, **outcome.plain()})
            console().print("\n".join([outcome.table(), *outcome.sentences(), f"{'result':>15}: {out}"]))
        return out

    def _combinations(self, asked: SampleSettings) -> list[Combination]:
        assert asked.sampler is not None
        assert not isinstance(asked.weights, list)
        assert asked.guider is not None
        return combinations(self.over, Base(asked.sampler, self.nfe, self.guidance, asked.guider, asked.weights))


class _Entrant(NamedTuple):
    """A combination, and the cell that scores it.

    Attributes:
        combination: Its options.
        guidance: Scale and rule.
        cell: Weights, facts of the guidance, label of the sampler, and steps.
        budget: Of network calls.
    """

    combination: Combination
    guidance: Guidance
    cell: tuple[str, str, str, int]
    budget: int


class _Found(NamedTuple):
    """A combination with its score."""

    entrant: _Entrant
    scouted: Scouted


def _entrant(one: Combination, loaded: Loaded, path: Path) -> _Entrant:
    """Check a combination with the model.

    Raises:
        BadInput: If it has no such weights or guidance, or the sampler does not suit it.
    """
    model, sampler = loaded.model, one.rule.sampler
    weights = loaded.names.chosen(one.weights, "weights")
    guidance = Guided(model, loaded.config, path, [weights]).guidance(one.guidance, one.guider)
    checks.check_guidance(model, [guidance], f"guidance={one.guidance:g}")
    checks.check_sampler(sampler, model, [guidance], "task.over", one.rule.label)
    try:
        budget = one.budget(model.denoiser.schedule)
        steps = sampler.steps if sampler.adaptive else sampler.steps_for(budget, model.denoiser.schedule)
    except ValueError as error:
        raise BadInput(f"task.over: {one.rule.label}: {error}") from None
    checks.check_steps(sampler, model, [guidance], steps, f"task.over: {one.rule.label}: ")
    return _Entrant(one, guidance, (weights, _facts(guidance.facts), one.rule.label, steps), budget)


def _facts(record: Mapping[str, Any]) -> str:
    """Of a guidance, or of the one that made the samples of a record."""
    return json.dumps([record["guidance"], record.get("guider")], sort_keys=True)


def _frontier(entrants: Sequence[_Entrant], loaded: Loaded, numbers: tuple[int, int, int], first: int = 0) -> Frontier:
    """The cells of combinations: all samplers with all weights and scales of guidance.

    Args:
        entrants: The combinations.
        loaded: The model.
        numbers: Samples a cell, of a batch, and the seed.
        first: Index of the first sample.
    """
    rules = {one.combination.rule.label: one.combination.rule for one in entrants}
    budgets: dict[str, list[int]] = {}
    for one in entrants:
        budgets.setdefault(one.combination.rule.label, []).append(one.budget)
    try:
        return Frontier(
            {label: rule.sampler for label, rule in rules.items()},
            {label: with_hashes(rule.node) for label, rule in rules.items()},
            loaded.model.denoiser.schedule,
            [],
            budgets,
            *numbers,
            [*dict.fromkeys(one.cell[0] for one in entrants)],
            once([one.guidance for one in entrants]),
            first=first,
        )
    except ValueError as error:
        raise BadInput(str(error).replace("evaluation.", "task.")) from None


def _scored(evaluator: Evaluator, job: Job, entrants: Sequence[_Entrant], frontier: Frontier) -> list[_Found]:
    """Combinations with their scores, each cell once a budget; a sampler may spend the same calls of two budgets."""
    records = evaluator.score(frontier, job.evaluation, job.loaded.images_seen)
    cells = {(r["weights"], _facts(r), r["sampler"], r["steps"]): r for r in reversed(records)}
    once = {(one.cell, one.combination.group): one for one in reversed(entrants)}
    return [
        _Found(one, Scouted(one.combination.options, cells[one.cell], one.combination.group))
        for one in reversed(once.values())
    ]


def _tell_size(entrants: Sequence[_Entrant], frontier: Frontier) -> None:
    calls = sum(frontier.calls) * len(frontier.weights) * len(frontier.guidance) * frontier.num_samples
    count = len({(one.cell, one.combination.group) for one in entrants})
    double = " (of guidance, each of two evaluations)" if any(one.acts for one in frontier.guidance) else ""
    text = f"search: {count} combinations, {calls:,} network calls{double}, then fresh samples"
    console(stderr=True).print(text)
