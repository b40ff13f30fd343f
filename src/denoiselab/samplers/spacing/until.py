"""Grids that end before the schedule's least noise."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from denoiselab.samplers.checks import check_positive
from denoiselab.samplers.spacing.ends import Wrapped
from denoiselab.samplers.spacing.grids import Spacing, UniformLogSNR
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class Until(Wrapped):
    """Another grid whose last level is at time t, of a continuous schedule that goes on to less noise.

    DEIS, DPM-Solver and UniPC end at t = 1e-3 (DPM-Solver at 1e-4 for more than 15 calls) of models that are trained
    from 1e-5. Where the schedule ends at t or before, and on a chain, the other grid is as it is.

    Source: code of Lu et al., DPM-Solver, arXiv 2206.00927; Zhao et al., UniPC, arXiv 2302.04867.

    Args:
        t: The last time.

    Raises:
        ValueError: Unless t > 0, or (`levels`) if the grid starts there.
    """

    spacing: Spacing = field(default_factory=UniformLogSNR)
    t: float = 1e-3

    ends_clean = wraps_clean = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("t", self.t)

    def levels(self, schedule: Schedule, count: int) -> Level:
        if schedule.steps is not None or schedule.t_min >= self.t:
            return self.spacing.levels(schedule, count)
        if not self.t < schedule.start(self.first_lam):
            raise ValueError(
                f"t={self.t}: it must be less than {schedule.start(self.first_lam):g}, where the grid starts."
            )
        shorter = copy.copy(schedule)
        shorter.t_min = self.t
        return schedule.level(self.spacing.levels(shorter, count).t)
