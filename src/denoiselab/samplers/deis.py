"""DEIS: exponential integrators for the predicted eps.

Its rhoRK is `RhoRK` with any tableau; its order-0 rules are DDIM.
"""

from __future__ import annotations

from collections.abc import Sequence

from denoiselab.samplers.multistep import Interpolating, Multistep
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.thresholding import Threshold
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
    """tAB-DEIS: eps is extrapolated by a polynomial in t. The paper's tAB of degree r is `order` r + 1.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, eq. 14-15.
    """

    space, axis = Eps(), Time()


class RhoAB(Interpolating):
    """rhoAB-DEIS: eps is extrapolated by a polynomial in rho = sigma / alpha; degree r is `order` r + 1.

    With the same history it is k-diffusion's LMS and iPNDM with variable steps (`iPNDM_v`).

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, section 3.3.
    """

    space, axis = Eps(), Rho()


class IPNDM(Multistep):
    """iPNDM: the equal-step Adams-Bashforth weights on any grid, started at low order.

    The weights suit steps equal in rho; on other grids the order is 2 at most.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, appendix H.1.
    """

    space = Eps()

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        order: int,
        lower_order_final: bool | int = False,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, order, lower_order_final, threshold)
        self.order = min(order, 2)

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """Constants."""
        return list(ADAMS_BASHFORTH[len(nodes) - 1])
