"""Draws the samples of a frontier's cells until it is decided which of them are better.

All cells get the samples of the first look. At each look the open cells are scored and compared; those whose verdicts
are wanted and open get the samples of the next one. Each cell with its sums, and where the frontier stands after each
look, are on disk, so that a killed run goes on with the next cell and comes to the same verdicts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from denoiselab import files
from denoiselab.code_digest import sha256_of_code
from denoiselab.evaluation import drawn as cell_files
from denoiselab.evaluation.cell import Scoring
from denoiselab.evaluation.drawn import Drawn
from denoiselab.evaluation.plans import Plan
from denoiselab.evaluation.ranks import is_first_rank, on_first_rank
from denoiselab.evaluation.records import guidance_text
from denoiselab.evaluation.standing import ALWAYS_VALID, Entrant, Standing, Stopping, Undecidable
from denoiselab.evaluation.store import Store, key_of
from denoiselab.evaluation.verdicts.compare import Estimate
from denoiselab.evaluation.verdicts.frontiers import estimate
from denoiselab.evaluation.verdicts.sequential import planned_looks

DECIDED, _LOOKS = "decided", "looks.json"


class Outcome(NamedTuple):
    """A cell that needs no more samples.

    Attributes:
        plan: Its plan.
        drawn: The cell.
        reason: Why it needs no more.
        against: Its last comparison with each other cell, by place: n, difference of losses, its standard error, and
            the multiple of this that the difference must exceed.
        undecided: Upper end of the interval of |difference| from cells of later places that should be decided.
    """

    plan: Plan
    drawn: Drawn
    reason: str
    against: dict[int, list[float]]
    undecided: dict[int, float]


@dataclass(frozen=True)
class UntilDecided:
    """Draws the samples of a frontier until it is decided.

    Args:
        plans: Iterates over the cells; while one is at hand, the model has its weights.
        scoring: From the number of samples of the cells, and the number of network calls to come.
        metric: That decides; its value at infinitely many samples, if there is one.
        dimension: Of what is scored.
        strata: Sample i is drawn from stratum i mod strata.
        store: Of the frontier.
        stopping: When cells have enough samples.
        check_cell: Called after each cell, by all ranks together.
    """

    plans: Callable[[], Generator[Plan, None, None]]
    scoring: Callable[[int, int], Scoring]
    metric: str
    dimension: int
    strata: int
    store: Store
    stopping: Stopping
    check_cell: Callable[[], None]

    def run(self) -> list[Outcome]:
        """The cells in their order; on other ranks than the first none.

        Raises:
            Undecidable: If the metric has no standard error, or the largest number of samples is less than the first
                look.
            OSError: If a cell cannot be written.
        """
        with closing(self.plans()) as cells:
            plans = [*cells]
        entrants = [_entrant(plan) for plan in plans]
        try:
            looks = planned_looks(self.dimension, self.stopping.max_samples, self.strata)
        except ValueError as error:
            raise Undecidable(str(error)) from None
        folder = self._folder(entrants)
        standing = Standing.read(on_first_rank(lambda: self._at_start(folder, entrants, looks).state()))
        self._draw_lost(folder, entrants, standing)
        while standing.open:
            standing = self._look(folder, plans, entrants, standing)
        return self._outcomes(folder, plans, entrants, standing) if is_first_rank() else []

    def _folder(self, entrants: Sequence[Entrant]) -> Path:
        """Of the files of this frontier; one of an always valid boundary is the same for any largest number."""
        stopping = self.stopping._asdict()
        if self.stopping.boundary == ALWAYS_VALID:
            del stopping["max_samples"]
        return self.store.directory / DECIDED / key_of({**stopping, "cells": [one.key for one in entrants]})[:16]

    def _at_start(self, folder: Path, entrants: Sequence[Entrant], looks: Sequence[int]) -> Standing:
        """Where the frontier was left; its beginning if that file is missing or damaged."""
        try:
            standing = Standing.read(files.read_json(folder / _LOOKS))
        except (OSError, ValueError, KeyError, TypeError):
            return Standing.at_start(len(entrants), looks)
        if self.stopping.boundary == ALWAYS_VALID:
            standing.extend(looks, entrants)
        return standing

    def _draw_lost(self, folder: Path, entrants: Sequence[Entrant], standing: Standing) -> None:
        """Draw the closed cells again whose files are missing or damaged, each by the looks that it had."""

        def find() -> list[int]:
            closed = [cell for cell in range(len(entrants)) if cell not in standing.open]
            lost = [cell for cell in closed if cell_files.read(_file(folder, entrants[cell])).n != standing.n[cell]]
            for cell in lost:
                _file(folder, entrants[cell]).unlink(missing_ok=True)
            return lost

        if not (lost := on_first_rank(find)):
            return
        with closing(self.plans()) as cells:
            for number, plan in enumerate(cells):
                if number in lost:
                    before = 0
                    for n in (look for look in standing.looks if look <= standing.n[number]):
                        scoring = self.scoring(n, plan.calls * (n - before))
                        self._cell(_file(folder, entrants[number]), plan, scoring, n)
                        before = n
                        self.check_cell()

    def _look(self, folder: Path, plans: Sequence[Plan], entrants: Sequence[Entrant], standing: Standing) -> Standing:
        """Draw the samples of the open cells, and compare them."""
        n = standing.looks[standing.taken]
        scoring = self.scoring(n, sum(plans[cell].calls * (n - standing.n[cell]) for cell in standing.open))
        estimates: list[Estimate | None] = []
        with closing(self.plans()) as cells:
            for number, plan in enumerate(cells):
                if number in standing.open:
                    drawn = self._cell(_file(folder, entrants[number]), plan, scoring, n)
                    record = {**drawn.record, "n": n, "cell": entrants[number].key}
                    given = None if record["error"] else estimate(record, drawn.influences, self.metric)
                    estimates.append(given)
                    self.check_cell()

        def compare() -> dict[str, Any]:
            standing.take(estimates, entrants, self.stopping)
            with self.store.writing():
                files.write_json(folder / _LOOKS, standing.state())
            return standing.state()

        return Standing.read(on_first_rank(compare))

    def _cell(self, path: Path, plan: Plan, scoring: Scoring, n: int) -> Drawn:
        """A cell at n samples, of which some may be drawn already."""
        before = cell_files.read(path) if is_first_rank() else Drawn()
        done = before.n == n or bool(before.statistics)
        number, record, kept = on_first_rank(lambda: (before.n * done, before.record, before.influences))
        before = before._replace(n=number, record=record, influences=kept) if number else Drawn()
        if number == n:
            return before
        drawn = scoring(plan.guidance, plan.sampler, plan.steps, plan.calls, before)
        if is_first_rank():
            with self.store.writing():
                cell_files.write(path, drawn)
        return drawn

    def _outcomes(
        self, folder: Path, plans: Sequence[Plan], entrants: Sequence[Entrant], standing: Standing
    ) -> list[Outcome]:
        """The cells; of their files, the sums that no run needs any more are removed."""
        reasons, decisions = standing.reasons(entrants), standing.decisions
        pairs = standing.undecided(entrants)
        going_on = {cell for *pair, _ in pairs for cell in pair}
        out = []
        for cell, (plan, entrant) in enumerate(zip(plans, entrants, strict=True)):
            path = _file(folder, entrant)
            drawn = cell_files.read(path)
            if drawn.statistics and not (self.stopping.boundary == ALWAYS_VALID and cell in going_on):
                drawn = drawn._replace(statistics={})
                with self.store.writing():
                    cell_files.write(path, drawn)
            against = {
                other: [float(values[cell, other]) for values in vars(decisions).values()]
                for other in decisions.n[cell].nonzero().flatten().tolist()
            }
            undecided = {second: bound for first, second, bound in pairs if first == cell}
            out.append(Outcome(plan, drawn, reasons[cell], against, undecided))
        return out


def _entrant(plan: Plan) -> Entrant:
    own = {key: value for key, value in plan.protocol.items() if key != "n"}
    parts = [plan.name, guidance_text(plan.protocol), f"at NFE {plan.calls}"]
    return Entrant(key_of({**own, "code": sha256_of_code(plan.code)}), " ".join(filter(None, parts)), plan.budget)


def _file(folder: Path, entrant: Entrant) -> Path:
    return folder / f"{entrant.key[:32]}.pt"
