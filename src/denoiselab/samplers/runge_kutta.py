"""Explicit Runge-Kutta rules: in rho (DEIS's rhoRK, EDM's Heun), in the schedule's time, and PNDM's pseudo-RK."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Step
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
