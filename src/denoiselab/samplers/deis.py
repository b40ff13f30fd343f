"""DEIS: exponential integrators for the predicted eps.

DEIS's rhoRK is `RhoRK` with any tableau; its rules of degree 0 are DDIM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from denoiselab.samplers.multistep import Interpolating, Multistep
from denoiselab.samplers.transfer import Eps, Rho, Time
from denoiselab.schedules import Level, Schedule

# Adams-Bashforth weights for equal steps, the newest first.
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class TAB(Interpolating):
    """tAB-DEIS: eps is extrapolated by a polynomial in t. The paper's tAB of degree r has `order` r + 1.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, eq. 14-15.
    """

    space, axis = Eps(), Time()
    path_dependent = True


class RhoAB(Interpolating):
    """rhoAB-DEIS: eps is extrapolated by a polynomial in rho = sigma / alpha; degree r has `order` r + 1.

    It is also k-diffusion's LMS, and iPNDM with the weights of unequal steps (`iPNDM_v`).

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, section 3.3.
    """

    space, axis = Eps(), Rho()


@dataclass(eq=False)
class IPNDM(Multistep):
    """iPNDM: the Adams-Bashforth weights of equal steps on any grid; the order rises from 1 at the start.

    The weights are exact for steps equal in rho; on other grids the convergence order is 2 at most. The arguments are
    those of `Multistep`.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, appendix H.1.
    """

    space = Eps()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.convergence_order = min(self.order, 2)

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        return list(ADAMS_BASHFORTH[len(nodes) - 1])
