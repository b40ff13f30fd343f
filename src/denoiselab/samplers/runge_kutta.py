"""Explicit Runge-Kutta rules: in rho (DEIS's rhoRK, EDM's Heun), in the schedule's time, and PNDM's pseudo-RK.

And rules whose steps span several levels of the grid: RX-DPM and PFDiff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Planned, Sampler, Step
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.multistep import Combination
from denoiselab.samplers.spacing import Spacing, VPTime
from denoiselab.samplers.tableaus import Tableau, heun, rk4
from denoiselab.samplers.transfer import Axis, Eps, Reader, Rho, Space, Time, Velocity, linear
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class RungeKutta(OneStep):
    """An explicit rule in one space, with its stages placed along one axis.

    Args:
        tableau: The rule.
    """

    tableau: Tableau = field(default_factory=heun)

    space: ClassVar[Space]
    axis: ClassVar[Axis]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.convergence_order, self.calls_per_step = self.tableau.order, len(self.tableau.weights)

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        return stages(schedule, self.space, self.axis, self.tableau, here, there)


@dataclass(eq=False)
class RhoRK(RungeKutta):
    """DEIS's rhoRK: d(x / alpha) = eps d(sigma / alpha). With `heun` it is EDM's second-order sampler for any alpha.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, section 3.3; Karras et al., EDM, arXiv 2206.00364, algorithm 1.
    """

    steps: int = 18

    space, axis = Eps(), Rho()


@dataclass(eq=False)
class TimeRK(RungeKutta):
    """The probability-flow ODE in the schedule's own time: fixed-grid Euler, midpoint, RK4 and others.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 13.
    """

    steps: int = 13
    tableau: Tableau = field(default_factory=rk4)

    space, axis = Velocity(), Time()
    path_dependent = True


@dataclass(eq=False)
class RXDPM(Sampler):
    """RX-DPM: Richardson extrapolation of several steps of DDIM and one over all of them that shares their first call.

    The error of a step is of its length in rho squared, so of `group` steps the share r = sum_i d_i^2 / (sum_i d_i)^2
    of the long step's, and x = (x_short - r x_long) / (1 - r). Two equal steps in rho are the midpoint rule. If r is
    near 1, as where the first step is by far the longest in rho, the extrapolation amplifies the difference.

    Source: Choi et al., RX-DPM, arXiv 2504.01855, and its code.

    Args:
        group: Steps that are extrapolated together, at least 2; the last group may have fewer.
        alone: First steps that are not: 1 in the released code for Stable Diffusion, 0 in that for EDM.
    """

    spacing: Spacing = field(default_factory=VPTime)
    group: int = 2
    alone: int = 1

    convergence_order = 2
    space: ClassVar[Space] = Eps()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("group", self.group, 2)
        check_number("alone", self.alone)

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        count = len(levels) - 1
        starts = [*range(min(self.alone, count)), *range(self.alone, count, self.group), count]
        return [self._extrapolated(schedule, levels[i : j + 1]) for i, j in pairwise(starts)]

    def _extrapolated(self, schedule: Schedule, levels: Sequence[Level]) -> Planned:
        here, count, rho = levels[0], len(levels) - 1, [float(level.rho) for level in levels]
        guesses = [[(rho[i + 1] - rho[i]) / (rho[j] - rho[0]) for i in range(j)] for j in range(1, count + 1)]
        if count > 1:
            share = sum(w * w for w in guesses[-1])
            guesses[-1] = [(w - share * (i == 0)) / (1 - share) for i, w in enumerate(guesses[-1])]
        moves = []
        for level, guess in zip(levels[1:], guesses, strict=True):
            keep, gain = self.space.move(here, level)
            moves.append((keep, *(gain * w for w in guess)))
        read = self.space.reader(schedule, here)
        return Planned(Stages(levels[:-1], [read] * count, moves), levels[-1])


@dataclass(eq=False)
class PFDiff(Sampler):
    """PFDiff-k_h: steps of DDIM over k + 1 levels with eps of the h-th of them, reached with eps of the step before.

    The first step, between two levels, and that to clean data are DDIM's own. `steps` counts calls: the grid has k + 1
    levels for each of the others. With k + 1 = 2 h the call is in the middle, and the convergence order 2.

    Source: Wang et al., PFDiff, arXiv 2408.08822, and its code (`generalized_steps`).

    Args:
        k: Levels that a step passes over, from 1 to 3.
        h: Levels from the start of a step to its call, from 1 to k.
    """

    spacing: Spacing = field(default_factory=VPTime)
    k: int = 1
    h: int = 1

    space: ClassVar[Space] = Eps()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("k", self.k, 1, 3)
        check_number("h", self.h, 1, self.k)
        self.convergence_order = 2 if self.k + 1 == 2 * self.h else 1

    def grid(self, schedule: Schedule, steps: int | None = None) -> list[Level]:
        calls, spacing = self.steps if steps is None else steps, self.spacing
        ends = int(spacing(schedule, 1)[0].is_end) + int(spacing.to_clean and spacing.end_is_step)
        return spacing(schedule, calls + self.k * max(0, calls - ends - 1))

    def calls(self, steps: int) -> int:
        return 1 + -(-(steps - 1) // (self.k + 1)) if steps else 0

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        read, first = self.space.reader(schedule, levels[0]), self.space.move(levels[0], levels[1])
        steps = [Planned(Combination(levels[0], levels[1], read, first, 1, 0.0), levels[1])]
        for i in range(1, len(levels) - 1, self.k + 1):
            last = min(i + self.k + 1, len(levels) - 1)
            called = levels[min(i + self.h, last - 1)]
            moves = self.space.move(levels[i], called), self.space.move(levels[i], levels[last])
            steps.append(Planned(_Springboard(called, read, *moves), levels[last]))
        return steps


class _Springboard:
    # A move with the prediction in the memory, a call where it leads, and a move from the same start with that call's.
    def __init__(self, called: Level, read: Reader, there: tuple[float, float], whole: tuple[float, float]) -> None:
        self.called, self.read, self.there, self.whole = called, read, there, whole

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        memory.add(self.read(denoise(linear(self.there, (x, memory.past[0])), self.called)), 1)
        return linear(self.whole, (x, memory.past[0]))


def stages(
    schedule: Schedule, space: Space, axis: Axis, tableau: Tableau, here: Level, there: Level, stored: int = 0
) -> Stages:
    """One step of a rule: stage i moves from `here` by sum_j (a_ij / c_i) m_j, the result by sum_j b_j m_j."""
    first, last = axis.of(here), axis.of(there)
    levels = [there if c == 1 else axis.level(schedule, first + c * (last - first)) for c in tableau.nodes]
    guesses = [[a / c for a in row] for c, row in zip(tableau.nodes, tableau.rows, strict=True)]
    moves = []
    for level, guess in zip([*levels, there], [*guesses, tableau.weights], strict=True):
        keep, gain = space.move(here, level)
        moves.append((keep, *(gain * w for w in guess)))
    asked = here if levels else here.towards(space.lands(schedule, here, there))
    return Stages([asked, *levels], [space.reader(schedule, level) for level in (here, *levels)], moves, stored)


class Stages:
    """Calls at several levels, each at a linear combination of x and the earlier predictions of the step.

    Args:
        levels: Levels of the calls, `here` first.
        readers: For each, reads m from a prediction.
        moves: After each call, the coefficients of x and of all predictions of the step.
        stored: Number of predictions at the starts of steps to keep in the memory; 0 stores none.
    """

    def __init__(
        self, levels: Sequence[Level], readers: Sequence[Reader], moves: Sequence[Sequence[float]], stored: int = 0
    ) -> None:
        self.calls = list(zip(levels, readers, map(_sparse, moves), strict=True))
        self.stored = stored

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        made: list[Tensor] = []
        stage = x
        for level, read, (which, coefficients) in self.calls:
            made.append(read(denoise(stage, level)))
            stage = linear(coefficients, [x, *(made[j] for j in which)])
        if self.stored:
            memory.add(made[0], self.stored)
        return stage


def _sparse(move: Sequence[float]) -> tuple[list[int], list[float]]:
    """Indices of the predictions with nonzero coefficients, and the coefficients of x and of those."""
    which = [j for j, c in enumerate(move[1:]) if c]
    return which, [move[0], *(move[1 + j] for j in which)]
