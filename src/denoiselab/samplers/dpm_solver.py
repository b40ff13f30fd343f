"""DPM-Solver and DPM-Solver++: exponential integrators in half log-SNR, for eps and for x0; ODE and SDE.

The rules for eps and for x0 only differ in their `Space`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from denoiselab.samplers.base import OneStep, Planned, Sampler, Step
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.multistep import Multistep
from denoiselab.samplers.runge_kutta import Stages
from denoiselab.samplers.spacing import UniformLogSNR
from denoiselab.samplers.spacing.ends import DenoiseToZero
from denoiselab.samplers.transfer import NOISIER, X0, Axis, Eps, Lam, Space, Time, gap, interpolation, kernel
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class DPMSolverPP(Multistep):
    """DPM-Solver++ multistep (1, 2M, 3M): x0 is extrapolated by a polynomial in half log-SNR, integrated exactly.

    That is the papers' `taylor` type. With `published`, order 2 extrapolates to the middle of the step (their
    `dpmsolver` type, and the 2M of other libraries), and order 3 has the released coefficients, in which the second
    difference lacks a factor 2: their convergence order is 2, and they serve to reproduce published numbers. With
    `taylor` too, the steps of order 2 at both ends of a run of order 3 are exact, as in the released `taylor` type and
    k-diffusion's 3M.

    With eta = 1 it is SDE-DPM-Solver++: k-diffusion's 2M SDE and 3M SDE. Order 1 is then DDPM's ancestral step.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, algorithm 2 and section 4.3.

    Args:
        published: Whether to use the published coefficients, which exist up to order 3.
        eta: Rate of noise; 0 is the ODE. inf, of order 1, renews all noise in each step: x0 <- D(x), x <- alpha x0 +
            sigma z, the sampling of consistency models (arXiv 2303.01469, algorithm 1).
        s_noise: Factor on the standard deviation of the noise.
        taylor: With `published`, whether steps of order 2 are exact.
    """

    order: int = 2
    published: bool = True
    eta: float = 0.0
    s_noise: float = 1.0
    taylor: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.published:
            check_number("order", self.order, 1, 3)
        check_number("eta", self.eta)
        check_number("s_noise", self.s_noise)
        if self.eta == math.inf and (self.order > 1 or not isinstance(self.space, X0)):
            raise ValueError(
                f"eta=inf: only DPMSolverPP with order=1 renews all noise; found {type(self).__name__} with "
                f"order={self.order}."
            )
        self.stochastic = self.eta > 0
        # The polynomial's order is that of a path's drift; without the Ito terms the weak order is 1.
        self.convergence_order = 1 if self.eta else self.whole(min(self.order, 2) if self.published else self.order)
        if self.eta and self.s_noise != 1:
            self.convergence_order, self.no_order = None, NOISIER
        if self.eta == math.inf:
            self.convergence_order, self.no_order = None, "each step renews all noise, however many there are"

    @property
    def space(self) -> Space:
        return X0(self.eta, self.s_noise)

    def plan(self, schedule: Schedule, levels: Sequence[Level]) -> list[Planned]:
        steps = super().plan(schedule, levels)
        if self.eta == math.inf and levels[0].alpha == 0 and levels[1].sigma > 0:  # of pure noise, too
            steps[0] = Planned(self.advance(schedule, levels[:1], levels[1]), levels[1])
        return steps

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
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


@dataclass(eq=False)
class DPMSolver(DPMSolverPP):
    """DPM-Solver multistep: `DPMSolverPP` for eps, by default with exact coefficients.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927; the multistep form: DPM-Solver++, arXiv 2211.01095, appendix.
    """

    published: bool = False

    @property
    def space(self) -> Space:
        return Eps(self.eta, self.s_noise)


@dataclass(eq=False)
class DPMSolverPPSinglestep(OneStep):
    """DPM-Solver++ 2S and 3S: stages inside the step, at fractions r1 and r2 of it in half log-SNR.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, algorithm 1; DPM-Solver, arXiv 2206.00927, algorithms 1 and 2.

    Args:
        order: Number of calls in a step, from 1 to 3. With 3 calls the convergence order is 2 unless r2 = 2/3.
        taylor: Whether to use the exact polynomial through all stages (`taylor`), or the papers' shorter rule
            (`dpmsolver`).
        r1: Place of the second call; None for 1/2 with order 2, 1/3 with order 3.
        r2: Place of the third call.
        stages: Coordinate in which the calls of a step are equally spaced, in place of r1 and r2. The released
            `singlestep_fixed` takes that of the grid: `Time` for uniform time, `Time(2)` for quadratic.
    """

    steps: int = 10
    order: int = 2
    taylor: bool = False
    r1: float | None = None
    r2: float = 2 / 3
    stages: Axis | None = None

    space: ClassVar[Space] = X0()

    def __post_init__(self) -> None:
        super().__post_init__()
        order, r1, r2 = self.order, self.r1, self.r2
        check_number("order", order, 1, 3)
        if self.stages is not None and (r1 is not None or r2 != 2 / 3):
            raise ValueError(f"stages={type(self.stages).__name__}: it replaces r1 and r2; leave them out.")
        self.calls_per_step, self.path_dependent = order, isinstance(self.stages, Time)
        # The third stage depends on the second by the shorter rule, which has order 3 at no other place.
        self.convergence_order = 2 if order == 3 and abs(r2 - 2 / 3) > 1e-6 else order
        second = {2: 1 / 2, 3: 1 / 3}.get(order, 0.0) if r1 is None else r1
        self.fractions = ((), (second,), (second, r2))[order - 1]
        if not all(a < b for a, b in pairwise((0.0, *self.fractions, 1.0))):
            raise ValueError(f"r1={r1}, r2={r2}: they must rise between 0 and 1.")

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        if self.stages is None:
            lam, h = float(here.lam), gap(here, there)
            inner = [Lam().level(schedule, lam + r * h) for r in self.fractions]
        else:
            first, last, count = self.stages.of(here), self.stages.of(there), self.calls_per_step
            inner = [self.stages.level(schedule, first + k / count * (last - first)) for k in range(1, count)]
        return exponential_stages(schedule, self.space, [here, *inner], there, taylor=self.taylor)


class DPMSolverSinglestep(DPMSolverPPSinglestep):
    """DPM-Solver-2 and -3: `DPMSolverPPSinglestep` for eps; order 2 with r1 = 1/2 is k-diffusion's DPM-2.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, algorithms 1 and 2.
    """

    space = Eps()


@dataclass(eq=False)
class DPMSolverFast(Sampler):
    """DPM-Solver-fast: singlestep rules of order 3, or 2, that spend any budget exactly. `steps` counts calls.

    The levels of the grid are those of the calls: three intervals make a step of order 3. The remaining calls at the
    end make steps of order 2 and 1: 3, ..., 3, 2, 1 or 3, ..., 3, 1 or 3, ..., 3, 2.

    Source: Lu et al., DPM-Solver, arXiv 2206.00927, section 3.4, and the released code for grids in t.

    Args:
        order: 2 or 3.
        taylor: As in `DPMSolverPPSinglestep`.
    """

    order: int = 3
    taylor: bool = False

    convergence_order = 2  # for most budgets: the error of a last step of order 1 is of order 2
    space: ClassVar[Space] = Eps()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("order", self.order, 2, 3)

    def grid(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        levels = super().grid(schedule, steps)
        first, last = int(levels[0].is_end), int(levels[-1].is_end)
        orders = fast_orders(max(0, len(levels) - 1 - first - last), self.order)
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
        steps: list[Planned] = []
        first = 0
        for order in fast_orders(len(levels) - 1, self.order):
            inner, there = levels[first : first + order], levels[first + order]
            steps.append(Planned(exponential_stages(schedule, self.space, inner, there, taylor=self.taylor), there))
            first += order
        return steps


class DPMSolverPPFast(DPMSolverFast):
    """DPM-Solver++ singlestep on a budget: `DPMSolverFast` for x0.

    Source: Lu et al., DPM-Solver++, arXiv 2211.01095, and its released code.
    """

    space = X0()


def fast_orders(calls: int, order: int) -> list[int]:
    """Orders of the steps of `DPMSolverFast` that take so many calls."""
    whole, rest = divmod(calls, order)
    if rest == 0 and order == 3 and whole:
        return [3] * (whole - 1) + [2, 1]
    return [order] * whole + ([rest] if rest else [])


def exponential_stages(
    schedule: Schedule, space: Space, levels: Sequence[Level], there: Level, *, taylor: bool = False
) -> Stages:
    """A singlestep rule with calls at 1 to 3 `levels`; their number is its order.

    Each stage extrapolates the predictions before it by their polynomial. Without `taylor`, the rule of order 2 has
    1 / (2 r1) in place of the exact weight, and that of order 3 leaves out the second prediction.
    """
    here = levels[0]
    if len(levels) == 1:
        levels = [here.towards(space.lands(schedule, here, there))]
    guesses: list[list[float]] = [[1.0]]
    if len(levels) == 2:
        if taylor:
            guesses.append(interpolation(schedule, space, Lam(), levels, here, there))
        else:
            half = gap(here, there) / (2 * gap(here, levels[1]))
            guesses.append([1 - half, half])
    if len(levels) == 3:
        guesses.append(interpolation(schedule, space, Lam(), levels[:2], here, levels[2]))
        if taylor:
            guesses.append(interpolation(schedule, space, Lam(), levels, here, there))
        else:
            first, last = interpolation(schedule, space, Lam(), (here, levels[2]), here, there)
            guesses.append([first, 0.0, last])
    moves = []
    for to, guess in zip([*levels[1:], there], guesses, strict=True):
        keep, gain = space.move(here, to)
        moves.append((keep, *(gain * w for w in guess)))
    return Stages(levels, [space.reader(schedule, level) for level in levels], moves)
