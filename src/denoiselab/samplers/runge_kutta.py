"""Explicit Runge-Kutta rules: in rho (DEIS's rhoRK, EDM's Heun), in the schedule's time, and PNDM's pseudo-RK."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, OneStep, Step
from denoiselab.samplers.spacing import Spacing
from denoiselab.samplers.tableaus import Tableau
from denoiselab.samplers.thresholding import Threshold
from denoiselab.samplers.transfer import Axis, Eps, Reader, Rho, Space, Time, Velocity, linear
from denoiselab.schedules import Level, Schedule


class RungeKutta(OneStep):
    """An explicit rule in one space, its stages placed along one axis.

    Args:
        spacing: Chooses the levels.
        steps: Number of steps.
        tableau: The rule.
        threshold: Mends each predicted x0.
    """

    space: Space
    axis: Axis

    def __init__(self, spacing: Spacing, steps: int, tableau: Tableau, threshold: Threshold | None = None) -> None:
        super().__init__(spacing, steps, threshold)
        self.tableau = tableau
        self.order, self.calls_per_step = tableau.order, len(tableau.weights)

    def between(self, schedule: Schedule, here: Level, there: Level) -> Step:
        """The stages of one step."""
        return stages(schedule, self.space, self.axis, self.tableau, here, there)


class RhoRK(RungeKutta):
    """DEIS's rhoRK: d(x / alpha) = eps d(sigma / alpha). With `heun` it is EDM's second-order sampler for any alpha.

    Source: Zhang and Chen, DEIS, arXiv 2204.13902, section 3.3; Karras et al., EDM, arXiv 2206.00364, algorithm 1.
    """

    space, axis = Eps(), Rho()


class TimeRK(RungeKutta):
    """The probability-flow ODE in the schedule's own time: fixed-grid Euler, midpoint, RK4 and the rest.

    Source: Song et al., Score-Based Generative Modeling through SDEs, arXiv 2011.13456, eq. 13.
    """

    space, axis = Velocity(), Time()


def stages(
    schedule: Schedule, space: Space, axis: Axis, tableau: Tableau, here: Level, there: Level, remembered: int = 0
) -> Stages:
    """One step of a rule: stage i moves from `here` by sum_j (a_ij / c_i) m_j, the result by sum_j b_j m_j."""
    first, last = axis.of(here), axis.of(there)
    levels = [there if c == 1 else axis.level(schedule, first + c * (last - first)) for c in tableau.nodes]
    guesses = [[a / c for a in row] for c, row in zip(tableau.nodes, tableau.rows, strict=True)]
    moves = []
    for level, guess in zip([*levels, there], [*guesses, tableau.weights], strict=True):
        keep, gain = space.move(here, level)
        moves.append((keep, *(gain * w for w in guess)))
    return Stages([here, *levels], [space.reader(schedule, level) for level in (here, *levels)], moves, remembered)


class Stages:
    """Calls at several levels, each at a combination of x and the predictions so far.

    Args:
        levels: Of the calls, `here` first.
        readers: Of m at each.
        moves: After each call, the coefficients of x and of all predictions of the step.
        remembered: Predictions at `here` to remember, with those of steps before.
    """

    def __init__(
        self, levels: Sequence[Level], readers: Sequence[Reader], moves: Sequence[Sequence[float]], remembered: int = 0
    ) -> None:
        self.calls = list(zip(levels, readers, map(_sparse, moves), strict=True))
        self.remembered = remembered

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        """One step."""
        made: list[Tensor] = []
        stage = x
        for level, read, (which, coefficients) in self.calls:
            made.append(read(denoise(stage, level)))
            stage = linear(coefficients, [x, *(made[j] for j in which)])
        if self.remembered:
            memory.add(made[0], self.remembered)
        return stage


def _sparse(move: Sequence[float]) -> tuple[list[int], list[float]]:
    """The predictions that count, and the coefficients of x and of them."""
    which = [j for j, c in enumerate(move[1:]) if c]
    return which, [move[0], *(move[1 + j] for j in which)]
