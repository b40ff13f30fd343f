"""PNDM: linear multistep on eps with a pseudo-numerical start; each step moves by the DDIM transfer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise

from denoiselab.samplers.base import Planned
from denoiselab.samplers.deis import ADAMS_BASHFORTH
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.runge_kutta import stages
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.tableaus import Tableau, heun, rk4
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import Eps, Space, Time, Velocity
from denoiselab.schedules import Level, Schedule


class _Started(Multistep):
    """Adams-Bashforth weights for equal steps, after some steps of a Runge-Kutta rule with stages placed in t.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        threshold: Mends each predicted x0.
    """

    space: Space = Eps()
    start: Tableau
    start_steps: int

    def __init__(self, spacing: Spacing, steps: int, threshold: Threshold | None = None) -> None:
        super().__init__(spacing, steps, self.terms, threshold=threshold)
        self.order = type(self).order

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """Constants."""
        return list(ADAMS_BASHFORTH[len(nodes) - 1])

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """The start, then one call a step."""
        after = super().interior(schedule, levels, to_come)[self.start_steps :]
        first = [
            Planned(stages(schedule, self.space, Time(), self.start, here, there, self.terms), there)
            for here, there in islice(pairwise(levels), self.start_steps)
        ]
        return [*first, *after]

    def calls(self, steps: int) -> int:
        """One a step, and the further stages of the start."""
        return steps + min(steps, self.start_steps) * (len(self.start.weights) - 1)


class SPNDM(_Started):
    """S-PNDM: one pseudo improved-Euler step, then (3 eps_0 - eps_1) / 2. One call more than steps.

    Source: Liu et al., PNDM, arXiv 2202.09778, section 3.3 and appendix A.
    """

    order, terms = 2, 2
    start, start_steps = heun(), 1


class FPNDM(_Started):
    """F-PNDM: three pseudo Runge-Kutta steps of 4 calls, then fourth-order Adams-Bashforth. 9 calls more than steps.

    The weights suit steps equal in rho; on other grids the order is 2 (the paper's theorem claims no more).

    Source: Liu et al., PNDM, arXiv 2202.09778, algorithm 2, eq. 12-14.
    """

    order, terms = 2, 4
    start, start_steps = rk4(), 3


class PLMS(_Started):
    """PLMS: one pseudo improved-Euler step, then Adams-Bashforth of orders 2, 3 and 4. One call more than steps.

    Source: Rombach et al., Latent Diffusion, arXiv 2112.10752 (released code), after PNDM.
    """

    order, terms = 2, 4
    start, start_steps = heun(), 1


class FON(_Started):
    """FON: the classical fourth-order method that PNDM is compared with, on dx/dt, for steps equal in t.

    Source: Liu et al., PNDM, arXiv 2202.09778, section 4.
    """

    order, terms = 4, 4
    space = Velocity()
    start, start_steps = rk4(), 3
