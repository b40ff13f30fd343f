"""DPM-Solver and DPM-Solver++: exponential integrators in half log-SNR, for eps and for x0; ODE and SDE.

A rule for eps and its twin for x0 differ in their `Space` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from denoiselab.samplers.base import OneStep, Planned, Sampler, Step, check_number
from denoiselab.samplers.ends import DenoiseToZero
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.runge_kutta import Stages
from denoiselab.samplers.spacing import Spacing, UniformLogSNR
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import NOISIER, X0, Axis, Eps, Lam, Space, gap, interpolation, kernel
from denoiselab.schedules import Level, Schedule


class DPMSolverPP(Multistep):
    """DPM-Solver++ multistep (1, 2M, 3M): x0 is extrapolated by a polynomial in half log-SNR, integrated exactly.

    That is the papers' `taylor` type. With `published`, order 2 extrapolates to the middle of the step (their
    `dpmsolver` type, and the 2M that everyone uses), and order 3 has the released coefficients, in which the second
    difference lacks a factor 2: they converge with order 2, and serve to reproduce old numbers. With `taylor` too, the
    steps of order 2 at both ends of a run of order 3 are exact, as in the released `taylor` type and k-diffusion's 3M.

    With eta = 1 it is SDE-DPM-Solver++: k-diffusion's 2M SDE and 3M SDE. Order 1 then is DDPM's ancestral step.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, algorithm 2 and section 4.3.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        order: From 1 to 4.
        published: The published coefficients, orders up to 3.
        taylor: With them, the exact ones in steps of order 2.
        eta: Rate of noise; 0 is the ODE.
        s_noise: Factor on the noise's standard deviation.
        lower_order_final: As in `Multistep`.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        order: int = 2,
        published: bool = False,
        eta: float = 0.0,
        s_noise: float = 1.0,
        lower_order_final: bool | int = False,
        taylor: bool = False,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, order, lower_order_final, threshold)
        if published:
            check_number("order", order, 1, 3)
        check_number("eta", eta)
        check_number("s_noise", s_noise)
        self.published, self.taylor, self.stochastic = published, taylor, eta > 0
        self.space = self._space(eta, s_noise)
        # The polynomial's order is that of a path's drift; without the Ito terms the weak order is 1.
        self.order = 1 if eta else self.whole(min(order, 2) if published else order)
        if eta and s_noise != 1:
            self.order, self.no_order = None, NOISIER

    def _space(self, eta: float, s_noise: float) -> Space:
        return X0(eta, s_noise)

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """The weights."""
        if not self.published or len(nodes) == 1 or (self.taylor and len(nodes) == 2):
            return interpolation(schedule, self.space, Lam(), nodes, nodes[0], there)
        h = gap(nodes[0], there)
        r0 = gap(nodes[1], nodes[0]) / h
        if len(nodes) == 2:
            return [1 + 0.5 / r0, -0.5 / r0]
        r1 = gap(nodes[2], nodes[1]) / h
        assert self.space.rate is not None
        z, masses = kernel(self.space.rate * h)
        first = sum(m * u for m, u in zip(masses, z.tolist(), strict=True))
        second = sum(m * u * u for m, u in zip(masses, z.tolist(), strict=True)) / 2
        # first D1 + second D2, D1 = d0 + r0 (d0 - d1) / (r0 + r1), D2 = (d0 - d1) / (r0 + r1): Newton's has 2 D2.
        bend = (first * r0 + second) / (r0 + r1)
        newer, older = (first + bend) / r0, -bend / r1
        return [1 + newer, older - newer, -older]


class DPMSolver(DPMSolverPP):
    """DPM-Solver multistep: as `DPMSolverPP`, for eps.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927; the multistep form: DPM-Solver++, arXiv 2211.01095, appendix.
    """

    def _space(self, eta: float, s_noise: float) -> Space:
        return Eps(eta, s_noise)


class DPMSolverPPSinglestep(OneStep):
    """DPM-Solver++ 2S and 3S: stages inside the step, at fractions r1 and r2 of it in half log-SNR.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, algorithm 1; DPM-Solver, arXiv 2206.00927, algorithms 1 and 2.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps, of `order` calls each.
        order: From 1 to 3; of 3, order 2 is left if r2 is not 2/3.
        taylor: Use all stages' exact polynomial (`taylor`); else the papers' shorter rule (`dpmsolver`).
        r1: Where the second call stands; None: 1/2 for order 2, 1/3 for order 3.
        r2: Where the third stands.
        stages: Coordinate in which the calls of a step are equally spaced, in the place of r1 and r2. The released
            `singlestep_fixed` takes the grid's own: `Time` for uniform time, `Time(2)` for quadratic.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: An option is out of range.
    """

    space: Space = X0()

    def __init__(
        self,
        spacing: Spacing,
        steps: int,
        order: int = 2,
        taylor: bool = False,
        r1: float | None = None,
        r2: float = 2 / 3,
        stages: Axis | None = None,
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(spacing, steps, threshold)
        check_number("order", order, 1, 3)
        if stages is not None and (r1 is not None or r2 != 2 / 3):
            raise ValueError(f"stages={type(stages).__name__}: it places the calls in the place of r1 and r2.")
        self.calls_per_step, self.taylor, self.stages = order, taylor, stages
        # The third stage knows too little of the second for order 3 at any other place.
        self.order = 2 if order == 3 and abs(r2 - 2 / 3) > 1e-6 else order
        second = {2: 1 / 2, 3: 1 / 3}.get(order, 0.0) if r1 is None else r1
        self.fractions = ((), (second,), (second, r2))[order - 1]
        if not all(a < b for a, b in pairwise((0.0, *self.fractions, 1.0))):
            raise ValueError(f"r1={r1}, r2={r2}: they must rise between 0 and 1.")

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The stages of one step."""
        if self.stages is None:
            lam, h = float(here.lam), gap(here, there)
            inner = [Lam().level(schedule, lam + r * h) for r in self.fractions]
        else:
            first, last, count = self.stages.of(here), self.stages.of(there), self.calls_per_step
            inner = [self.stages.level(schedule, first + k / count * (last - first)) for k in range(1, count)]
        return exponential_stages(schedule, self.space, [here, *inner], there, taylor=self.taylor)


class DPMSolverSinglestep(DPMSolverPPSinglestep):
    """DPM-Solver-2 and -3: as `DPMSolverPPSinglestep`, for eps; order 2 at r1 = 1/2 is k-diffusion's DPM-2.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, algorithms 1 and 2.
    """

    space = Eps()


class DPMSolverFast(Sampler):
    """DPM-Solver-fast: singlestep rules of order 3, or 2, that spend any budget exactly; a step is one call.

    The grid's levels are those of the calls: three intervals make a step of order 3. What is left at the end takes
    steps of order 2 and 1: 3, ..., 3, 2, 1 or 3, ..., 3, 1 or 3, ..., 3, 2.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, section 3.4, and the released code for grids in t.

    Args:
        spacing: Chooses the levels.
        steps: Number of calls.
        order: 2 or 3.
        taylor: As in `DPMSolverPPSinglestep`.
        threshold: Mends each predicted x0.

    Raises:
        ValueError: An option is out of range.
    """

    space: Space = Eps()

    def __init__(
        self, spacing: Spacing, steps: int, order: int = 3, taylor: bool = False, threshold: Threshold | None = None
    ) -> None:
        super().__init__(spacing, steps, threshold)
        check_number("order", order, 2, 3)
        self.terms, self.taylor = order, taylor
        self.order = 2  # of most budgets: the error of a last step of order 1 is of order 2

    def grid(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        """The levels of the calls."""
        levels = super().grid(schedule, steps)
        first, last = int(levels[0].is_end), int(levels[-1].is_end)
        orders = fast_orders(max(0, len(levels) - 1 - first - last), self.terms)
        own = self.spacing.spacing if isinstance(self.spacing, DenoiseToZero) else self.spacing
        if not isinstance(own, UniformLogSNR) or not orders:
            return levels
        outer = self.spacing(schedule, len(orders) + first + last * self.spacing.end_is_step)
        calls = outer[:first]
        for order, (here, there) in zip(orders, pairwise(outer[first : len(outer) - last]), strict=True):
            calls += [
                here,
                *(Lam().level(schedule, float(here.lam) + k / order * gap(here, there)) for k in range(1, order)),
            ]
        return [*calls, *outer[-1 - last :]]

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        """One step a group; the intervals inside of a group are its calls."""
        steps: list[Planned] = []
        first = 0
        for order in fast_orders(len(levels) - 1, self.terms):
            inner, there = levels[first : first + order], levels[first + order]
            steps.append(Planned(exponential_stages(schedule, self.space, inner, there, taylor=self.taylor), there))
            first += order
        return steps


class DPMSolverPPFast(DPMSolverFast):
    """DPM-Solver++ singlestep on a budget: as `DPMSolverFast`, for x0.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, and its released code.
    """

    space = X0()


def fast_orders(calls: int, order: int) -> list[int]:
    """Orders of the steps that spend so many calls."""
    whole, rest = divmod(calls, order)
    if rest == 0 and order == 3 and whole:
        return [3] * (whole - 1) + [2, 1]
    return [order] * whole + ([rest] if rest else [])


def exponential_stages(
    schedule: Schedule, space: Space, levels: Sequence[Level], there: Level, *, taylor: bool = False
) -> Stages:
    """A singlestep rule whose calls stand at `levels`, of order their number (1 to 3).

    Each stage moves by the polynomial through predictions before it; of order 2, `dpmsolver` puts 1 / (2 r1) in the
    place of its exact weight, of order 3 it leaves out the second call.
    """
    here = levels[0]
    ways: list[list[float]] = [[1.0]]
    if len(levels) == 2:
        if taylor:
            ways.append(interpolation(schedule, space, Lam(), levels, here, there))
        else:
            half = gap(here, there) / (2 * gap(here, levels[1]))
            ways.append([1 - half, half])
    if len(levels) == 3:
        ways.append(interpolation(schedule, space, Lam(), levels[:2], here, levels[2]))
        if taylor:
            ways.append(interpolation(schedule, space, Lam(), levels, here, there))
        else:
            first, last = interpolation(schedule, space, Lam(), (here, levels[2]), here, there)
            ways.append([first, 0.0, last])
    moves = []
    for to, guess in zip([*levels[1:], there], ways, strict=True):
        keep, gain = space.move(here, to)
        moves.append((keep, *(gain * w for w in guess)))
    return Stages(levels, [space.reader(schedule, level) for level in levels], moves)
