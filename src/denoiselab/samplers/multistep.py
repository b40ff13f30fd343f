"""Multistep samplers, which combine a prediction with past ones: DEIS, DPM-Solver, LMS, PNDM and UniPC."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from denoiselab.denoiser import Denoise
from denoiselab.noise import Noise
from denoiselab.samplers.base import Memory, Planned, Sampler, Step
from denoiselab.samplers.checks import check_number
from denoiselab.samplers.transfer import Axis, Reader, Space, interpolation, linear
from denoiselab.schedules import Level, Schedule


@dataclass(eq=False)
class Multistep(Sampler):
    """x_s = keep x_t + gain sum_j w_j m_j (+ std z), over this prediction and up to order - 1 past ones.

    A run starts at order 1, and the order rises by one with each step.

    Args:
        order: Number of predictions in a step, from 1 to 4.
        lower_order_final: Whether the order falls to the number of steps left at the end of a run, the step to clean
            data included. A number: only in runs of fewer steps (10 in the released DPM-Solver, 15 in diffusers).
    """

    order: int = 4
    lower_order_final: bool | int = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("order", self.order, 1, 4)
        self.convergence_order = self.whole(self.order)

    @property
    @abstractmethod
    def space(self) -> Space:
        """The space in which a step with constant predictions is exact."""

    def whole(self, order: int) -> int:
        """Convergence order of a run of a rule of that order: a last step of order k has an error of order k + 1."""
        return min(order, 3 if self.spacing.to_clean else 2) if self.lower_order_final is True else order

    @abstractmethod
    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        """Weights, of sum 1, of the predictions at `nodes`; the step starts at the first of them.

        Args:
            schedule: The path from noise to data.
            nodes: Levels of the predictions, the newest first.
            there: Level at which the step ends.
        """

    def interior(self, schedule: Schedule, levels: Sequence[Level], to_come: int) -> list[Planned]:
        count = len(levels) - 1
        return [
            Planned(self.advance(schedule, self.nodes(levels, i, count - i + to_come), levels[i + 1]), levels[i + 1])
            for i in range(count)
        ]

    def nodes(self, levels: Sequence[Level], i: int, left: int, order: int | None = None) -> Sequence[Level]:
        """The levels, newest first, whose predictions step `i` combines; `left` steps are left, step `i` included."""
        order, below = order or self.order, self.lower_order_final
        terms = min(order, left) if below is True or i + left < below else order
        return levels[max(0, i - terms + 1) : i + 1][::-1]

    def advance(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> Step:
        """The step to `there` from the first of `nodes`."""
        here = nodes[0]
        keep, gain = self.space.move(here, there)
        weights = self.weights(schedule, nodes, there)
        coefficients = (keep, *(gain * w for w in weights))
        asked = here.towards(self.space.lands(schedule, here, there) if self.order == 1 else None)
        return Combination(
            asked, there, self.space.reader(schedule, here), coefficients, self.order, self.space.std(here, there)
        )


class Combination:
    """One call, then x = c_0 x + sum_j c_(j+1) m_j (+ std z).

    Args:
        here: Level at which the step starts.
        there: Level at which it ends.
        read: Reads m from a prediction.
        coefficients: c_0, and those of the predictions, the newest first.
        stored: Number of predictions to keep in the memory.
        std: Standard deviation of the noise.
    """

    def __init__(
        self, here: Level, there: Level, read: Reader, coefficients: Sequence[float], stored: int, std: float
    ) -> None:
        self.here, self.there, self.read = here, there, read
        self.coefficients, self.stored, self.std = coefficients, stored, std

    def __call__(self, denoise: Denoise, x: Tensor, memory: Memory, noise: Noise, /) -> Tensor:
        memory.add(self.read(denoise(x, self.here)), self.stored)
        x = linear(self.coefficients, (x, *memory.past[: len(self.coefficients) - 1]))
        return x.add_(noise.between(x, self.here, self.there), alpha=self.std) if self.std else x


class Interpolating(Multistep):
    """A multistep sampler whose weights integrate the polynomial through the predictions exactly."""

    axis: Axis

    def weights(self, schedule: Schedule, nodes: Sequence[Level], there: Level) -> list[float]:
        return interpolation(schedule, self.space, self.axis, nodes, nodes[0], there)
