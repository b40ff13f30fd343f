"""PNDM: linear multistep rules for eps, started by a Runge-Kutta rule; each step is a DDIM transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import ClassVar

from denoiselab.samplers.base import Planned
from denoiselab.samplers.deis import ADAMS_BASHFORTH
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.runge_kutta import stages
from denoiselab.samplers.spacing import Spacing, UniformTime
from denoiselab.samplers.tableaus import Tableau, heun, rk4
from denoiselab.samplers.transfer import Eps, Space, Time, Velocity
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class _Started(Multistep):
    """Adams-Bashforth weights for equal steps, after some steps of a Runge-Kutta rule with stages placed in t."""

    steps: int = 50
    order: int = field(default=4, init=False, repr=False)
    lower_order_final: bool | int = field(default=False, init=False, repr=False)

    start: ClassVar[Tableau]
    start_steps: ClassVar[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.convergence_order = type(self).convergence_order

    @property
    def space(self) -> Space:
        return Eps()

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        return list(ADAMS_BASHFORTH[len(nodes) - 1])

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        after = super().interior(schedule, levels, to_come)[self.start_steps :]
        first = [
            Planned(stages(schedule, self.space, Time(), self.start, here, there, self.order), there)
            for here, there in islice(pairwise(levels), self.start_steps)
        ]
        return [*first, *after]

    def calls(self, steps: int) -> int:
        return steps + min(steps, self.start_steps) * (len(self.start.weights) - 1)


@dataclass(eq=False)
class SPNDM(_Started):
    """S-PNDM: one pseudo improved-Euler step, then (3 eps_0 - eps_1) / 2. One call more than steps.

    Source: Liu et al., PNDM, arXiv 2202.09778, section 3.3 and appendix A.
    """

    order: int = field(default=2, init=False, repr=False)

    convergence_order = 2
    start, start_steps = heun(), 1


class FPNDM(_Started):
    """F-PNDM: three pseudo Runge-Kutta steps of 4 calls, then fourth-order Adams-Bashforth. 9 calls more than steps.

    The weights are exact for steps equal in rho; on other grids the order is 2 (the paper proves no more).

    Source: Liu et al., PNDM, arXiv 2202.09778, algorithm 2, eq. 12-14.
    """

    convergence_order = 2
    path_dependent = True
    start, start_steps = rk4(), 3


class PLMS(_Started):
    """PLMS: one pseudo improved-Euler step, then Adams-Bashforth of orders 2, 3 and 4. One call more than steps.

    Source: Rombach et al., Latent Diffusion, arXiv 2112.10752 (released code), after PNDM.
    """

    convergence_order = 2
    start, start_steps = heun(), 1


@dataclass(eq=False)
class FON(_Started):
    """FON: the classical fourth-order method on dx/dt, for steps equal in t; the baseline of the PNDM paper.

    Source: Liu et al., PNDM, arXiv 2202.09778, section 4.
    """

    spacing: Spacing = field(default_factory=UniformTime)

    convergence_order = 4
    path_dependent = True
    space = Velocity()
    start, start_steps = rk4(), 3
